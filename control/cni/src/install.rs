//! Putting the plugin onto a node: its binaries, its way to the API server, and, last of all, the configuration that tells runtimes of it.
//!
//! ```text
//!   /opt/cni/bin/caracal-cni, caracal-ipam     this program
//!   /etc/cni/net.d/caracal-kubeconfig          0600: server, CA and token of the service account, or a kubeconfig's copy
//!   /etc/cni/net.d/10-caracal.conflist         last, after the API server has answered: from now on pods are attached
//! ```
//!
//! Every file is written beside its place and renamed into it, so a runtime sees the old one or the new one, whole.

use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use caracal_datastore::{ApiGroup, ClientError, Datastore, DatastoreError};
use caracal_model::object::Kind;
use serde_json::{Value, json};

use crate::plugin::config::{Config, ConfigError};

/// The names that the binary is installed under.
const BINARIES: [&str; 2] = ["caracal-cni", "caracal-ipam"];
/// The plugin's name in configurations.
const TYPE: &str = "caracal-cni";

/// The network's configuration where nobody gives another. What stands between underscores is filled in.
const TEMPLATE: &str = r#"{
  "name": "k8s-pod-network",
  "cniVersion": "1.0.0",
  "plugins": [
    {
      "type": "caracal-cni",
      "log_level": "__LOG_LEVEL__",
      "log_file_path": "/var/log/calico/cni/cni.log",
      "datastore_type": "kubernetes",
      "calico_api_group": "__CALICO_API_GROUP__",
      "nodename": "__KUBERNETES_NODE_NAME__",
      "mtu": __CNI_MTU__,
      "ipam": { "type": "calico-ipam" },
      "policy": { "type": "k8s" },
      "kubernetes": { "kubeconfig": "__KUBECONFIG_FILEPATH__" }
    },
    { "type": "portmap", "snat": true, "capabilities": { "portMappings": true } }
  ]
}
"#;

/// What is installed, and where.
#[derive(Debug, Clone)]
pub struct Install {
    /// This program.
    pub program: PathBuf,
    /// Where plugins are.
    pub bin_dir: PathBuf,
    /// Where networks' configurations are, as this process sees it.
    pub conf_dir: PathBuf,
    /// The same as the runtime's host sees it.
    pub conf_dir_on_host: PathBuf,
    /// The configuration's name there.
    pub conf_name: String,
    /// The kubeconfig's.
    pub kubeconfig_name: String,
    /// What becomes the configuration; `None`: ours.
    pub template: Option<String>,
    /// How plugins reach the API server.
    pub credentials: Credentials,
    /// The node's name; empty: the file that the agent writes says it.
    pub node: String,
    /// The pods' largest packet; 0: the agent says.
    pub mtu: u32,
    /// From which severity on the plugin logs.
    pub log_level: String,
}

/// How plugins reach the API server.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// By a copy of this kubeconfig.
    Kubeconfig(PathBuf),
    /// As the service account of the pod that this process is in.
    ServiceAccount {
        /// Where its token and CA are.
        directory: PathBuf,
        /// The API server's address.
        host: String,
        /// And port.
        port: u16,
    },
}

/// Why the plugin is not installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A file could not be read, written or removed.
    #[error("cannot {doing} {}: {source}", .path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// To which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The kubeconfig cannot be used.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The API server does not answer, or refuses.
    #[error("{0}; no configuration has been written, so runtimes do not know of the network yet")]
    Datastore(#[from] DatastoreError),
    /// The template is none.
    #[error("the configuration made from the template is not JSON: {0}")]
    NotJson(serde_json::Error),
    /// The plugin would refuse the configuration.
    #[error("the configuration made from the template: {0}")]
    Config(#[from] ConfigError),
    /// The configuration is no list of plugins with ours in it.
    #[error(
        "the configuration made from the template has no plugin of type caracal-cni or calico in its list \"plugins\""
    )]
    NotOurs,
}

impl InstallError {
    fn file<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::File { doing, path: path.to_owned(), source }
    }
}

impl Install {
    /// Installs everything; the configuration last, when the API server has answered.
    ///
    /// # Errors
    /// Any [`InstallError`]. What has been installed stays, and is replaced the next time.
    pub async fn install(&self) -> Result<(), InstallError> {
        self.binaries()?;
        self.refresh()?;
        let client = caracal_datastore::client(Some(&self.kubeconfig())).await?;
        let datastore = Datastore::connect(client, None).await?;
        match datastore.get(Kind::ClusterInformation, None, "default").await {
            Err(error) if !error.is_not_found() => return Err(error.into()),
            _ => {}
        }
        let text = self.configuration(datastore.group())?;
        self.remove_others()?;
        put(&self.conf_dir.join(&self.conf_name), 0o644, text.as_bytes())
    }

    /// Writes the kubeconfig, if it is another than the one that is there: tokens are replaced in time. Whether it did.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn refresh(&self) -> Result<bool, InstallError> {
        let path = self.kubeconfig();
        let text = self.credentials.kubeconfig()?;
        if fs::read(&path).is_ok_and(|before| before == text) {
            return Ok(false);
        }
        put(&path, 0o600, &text)?;
        Ok(true)
    }

    /// Removes everything, the configuration first. What is not there need not be removed.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn uninstall(&self) -> Result<(), InstallError> {
        remove(&self.conf_dir.join(&self.conf_name))?;
        self.remove_others()?;
        remove(&self.kubeconfig())?;
        BINARIES.iter().try_for_each(|name| remove(&self.bin_dir.join(name)))
    }

    fn kubeconfig(&self) -> PathBuf {
        self.conf_dir.join(&self.kubeconfig_name)
    }

    fn binaries(&self) -> Result<(), InstallError> {
        fs::create_dir_all(&self.bin_dir).map_err(InstallError::file("make the directory", &self.bin_dir))?;
        for name in BINARIES {
            let place = self.bin_dir.join(name);
            let mut source = File::open(&self.program).map_err(InstallError::file("read", &self.program))?;
            // A plugin that is being executed cannot be written to, but be replaced.
            caracal_files::replace_with(&place, 0o755, |file| io::copy(&mut source, file).map(drop))
                .map_err(InstallError::file("write", &place))?;
        }
        Ok(())
    }

    /// The configuration, after the plugin's own judgement of it.
    fn configuration(&self, group: ApiGroup) -> Result<String, InstallError> {
        let (host, port) = match &self.credentials {
            Credentials::ServiceAccount { host, port, .. } => (host.clone(), port.to_string()),
            Credentials::Kubeconfig(_) => Default::default(),
        };
        let on_host = self.conf_dir_on_host.join(&self.kubeconfig_name).display().to_string();
        let fields = [
            ("__CNI_MTU__", self.mtu.to_string()),
            ("__KUBECONFIG_FILEPATH__", on_host),
            ("__KUBERNETES_NODE_NAME__", self.node.clone()),
            ("__LOG_LEVEL__", self.log_level.clone()),
            ("__CALICO_API_GROUP__", group.to_string()),
            ("__KUBERNETES_SERVICE_HOST__", host),
            ("__KUBERNETES_SERVICE_PORT__", port),
        ];
        let template = self.template.as_deref().unwrap_or(TEMPLATE);
        let text = fields.iter().fold(template.to_owned(), |text, (field, value)| text.replace(field, value));
        let list: Value = serde_json::from_str(&text).map_err(InstallError::NotJson)?;
        let ours = plugins(&list).find(|plugin| is_ours(plugin)).ok_or(InstallError::NotOurs)?;
        let mut whole = ours.clone();
        for field in ["name", "cniVersion"] {
            if let Some(value) = list.get(field) {
                whole[field] = value.clone();
            }
        }
        Config::parse(whole.to_string().as_bytes())?;
        Ok(text)
    }

    /// Removes configurations of ours under other names: two of them would be two networks.
    fn remove_others(&self) -> Result<(), InstallError> {
        let entries = match fs::read_dir(&self.conf_dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(InstallError::file("read the directory", &self.conf_dir))?,
        };
        for entry in entries {
            let path = entry.map_err(InstallError::file("read the directory", &self.conf_dir))?.path();
            let is_configuration = path.extension().is_some_and(|end| end == "conflist" || end == "conf");
            if !is_configuration || path.file_name().is_some_and(|name| *name == *self.conf_name) {
                continue;
            }
            let list: Option<Value> =
                fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
            if list.is_some_and(|list| plugins(&list).any(|plugin| plugin["type"] == TYPE)) {
                remove(&path)?;
            }
        }
        Ok(())
    }
}

impl Credentials {
    /// As a kubeconfig.
    fn kubeconfig(&self) -> Result<Vec<u8>, InstallError> {
        let (directory, host, port) = match self {
            Self::Kubeconfig(path) => return fs::read(path).map_err(InstallError::file("read", path)),
            Self::ServiceAccount { directory, host, port } => (directory, host, port),
        };
        let read = |name: &str| {
            let path = directory.join(name);
            fs::read_to_string(&path).map_err(InstallError::file("read", &path))
        };
        let (ca, token) = (read("ca.crt")?, read("token")?);
        // An IPv6 address stands in brackets in a URL.
        let host = match host.parse() {
            Ok(IpAddr::V6(address)) => format!("[{address}]"),
            _ => host.clone(),
        };
        // JSON is YAML.
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "caracal-cni",
            "clusters": [{"name": "local", "cluster": {
                "server": format!("https://{host}:{port}"),
                "certificate-authority-data": data_encoding::BASE64.encode(ca.as_bytes()),
            }}],
            "users": [{"name": "caracal-cni", "user": {"token": token.trim()}}],
            "contexts": [{"name": "caracal-cni", "context": {"cluster": "local", "user": "caracal-cni"}}],
        });
        Ok(format!("{kubeconfig:#}\n").into_bytes())
    }
}

fn plugins(list: &Value) -> impl Iterator<Item = &Value> {
    list["plugins"].as_array().into_iter().flatten()
}

fn is_ours(plugin: &Value) -> bool {
    plugin["type"] == TYPE || plugin["type"] == "calico"
}

fn put(path: &Path, mode: u32, text: &[u8]) -> Result<(), InstallError> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(InstallError::file("make the directory", directory))?;
    }
    caracal_files::replace(path, mode, text).map_err(InstallError::file("write", path))
}

fn remove(path: &Path) -> Result<(), InstallError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(InstallError::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
