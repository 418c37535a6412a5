//! What a container runtime does: executes the plugins of a network as the CNI specification says, in order for ADD and CHECK, the other way
//! round for DEL.
//!
//! ```text
//!   configuration list ─► plugin 1 ─ result ─► plugin 2 ─ result ─► … ─► the result, which later CHECK and DEL are told as prevResult
//!         stdin: its own part, name, cniVersion, runtimeConfig, prevResult       environment: CNI_COMMAND, CNI_NETNS, …
//! ```

use std::{
    fs,
    io::{self, Read, Write},
    net::IpAddr,
    os::{fd::AsFd, unix::fs::symlink},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use caracal_cni::netns::{self, NetnsError};
use nix::poll::{PollFd, PollFlags, poll};
use serde_json::{Map, Value, json};

use crate::stop::Stop;

/// What a plugin may take at most: it has limits of its own, which are shorter.
const LIMIT: Duration = Duration::from_secs(120);
/// How often one that says nothing is looked at: hundreds may run at once, and who looks takes time from them.
const LOOK_MS: u8 = 50;
/// One that has said all that it will say is about to end.
const ENDING: Duration = Duration::from_millis(1);

/// Why a plugin did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    /// It is in none of the folders.
    #[error("there is no CNI plugin {0} in any of the folders of CNI_PATH")]
    NoPlugin(String),
    /// It could not be executed.
    #[error("cannot execute the CNI plugin {}: {source}", .program.display())]
    Start {
        /// Which.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The node's namespace could not be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// It says why it could not do it.
    #[error("{plugin} {command}: {message} (CNI error {code}){details}")]
    Refused {
        /// Which.
        plugin: String,
        /// What it was asked for.
        command: &'static str,
        /// The specification's number of the error.
        code: u64,
        /// In its words.
        message: String,
        /// More of them.
        details: String,
    },
    /// It ended without saying anything that can be understood.
    #[error("{plugin} {command} failed ({how}) and answered: {output}")]
    Failed {
        /// Which.
        plugin: String,
        /// What it was asked for.
        command: &'static str,
        /// How it ended.
        how: String,
        /// What it wrote.
        output: String,
    },
}

impl CniError {
    /// The specification's number of the error.
    #[must_use]
    pub fn code(&self) -> Option<u64> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// A network, and where its plugins are executed.
#[derive(Debug, Clone)]
pub struct Network {
    /// The configuration list: cniVersion, name, plugins.
    pub list: Value,
    /// Folders of executables: CNI_PATH.
    pub path: Vec<PathBuf>,
    /// The node's network namespace; `None`: this process's.
    pub node_netns: Option<PathBuf>,
    /// Environment of every plugin besides what the specification says.
    pub environment: Vec<(String, String)>,
    /// Where plugins write what is no answer.
    pub log: PathBuf,
}

/// What is attached to a network.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// CNI_CONTAINERID.
    pub container: String,
    /// CNI_NETNS.
    pub netns: PathBuf,
    /// CNI_IFNAME.
    pub interface: String,
    /// CNI_ARGS: whose container it is.
    pub args: String,
    /// What the runtime tells plugins that ask for it: `portMappings`, `bandwidth`.
    pub capabilities: Map<String, Value>,
}

impl Attachment {
    /// The first interface of a pod's sandbox.
    #[must_use]
    pub fn of_pod(namespace: &str, pod: &str, container: &str, netns: PathBuf) -> Self {
        Self {
            container: container.into(),
            netns,
            interface: "eth0".into(),
            args: format!(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={pod};K8S_POD_INFRA_CONTAINER_ID={container}"
            ),
            capabilities: Map::new(),
        }
    }
}

impl Network {
    /// Attaches, and returns what the last plugin says. Does not take back what the first ones did when a later one fails: whoever attaches
    /// then calls [`Self::del`], as kubelet does.
    ///
    /// # Errors
    /// Any [`CniError`].
    pub fn add(&self, what: &Attachment, stop: &Stop) -> Result<Value, CniError> {
        let mut result = Value::Null;
        for plugin in self.plugins() {
            result = self.execute(plugin, "ADD", Some(what), &result, stop)?;
        }
        Ok(result)
    }

    /// Detaches. `result` is what [`Self::add`] returned, if that is known.
    ///
    /// # Errors
    /// Any [`CniError`].
    pub fn del(&self, what: &Attachment, result: &Value, stop: &Stop) -> Result<(), CniError> {
        for plugin in self.plugins().rev() {
            self.execute(plugin, "DEL", Some(what), result, stop)?;
        }
        Ok(())
    }

    /// Whether everything is still as `result` says.
    ///
    /// # Errors
    /// Any [`CniError`].
    pub fn check(&self, what: &Attachment, result: &Value, stop: &Stop) -> Result<(), CniError> {
        for plugin in self.plugins() {
            self.execute(plugin, "CHECK", Some(what), result, stop)?;
        }
        Ok(())
    }

    /// Removes what belongs to none of the attachments that are still wanted.
    ///
    /// # Errors
    /// Any [`CniError`].
    pub fn gc(&self, wanted: &[Attachment], stop: &Stop) -> Result<(), CniError> {
        let wanted: Vec<Value> = wanted
            .iter()
            .map(|what| json!({"containerID": what.container, "ifname": what.interface}))
            .collect();
        for plugin in self.plugins() {
            let mut plugin = plugin.clone();
            plugin["cni.dev/valid-attachments"] = wanted.clone().into();
            self.execute(&plugin, "GC", None, &Value::Null, stop)?;
        }
        Ok(())
    }

    /// Whether the plugins could attach something now.
    ///
    /// # Errors
    /// Any [`CniError`].
    pub fn status(&self, stop: &Stop) -> Result<(), CniError> {
        for plugin in self.plugins() {
            self.execute(plugin, "STATUS", None, &Value::Null, stop)?;
        }
        Ok(())
    }

    fn plugins(&self) -> impl DoubleEndedIterator<Item = &Value> {
        self.list["plugins"].as_array().into_iter().flatten()
    }

    fn execute(
        &self,
        plugin: &Value,
        command: &'static str,
        what: Option<&Attachment>,
        previous: &Value,
        stop: &Stop,
    ) -> Result<Value, CniError> {
        let mut child = self.start(plugin, command, what, previous)?;
        let start = Instant::now();
        while child.is_running()? && !stop.is_set() && start.elapsed() < LIMIT {
            child.listen();
        }
        child.finish(command)
    }

    /// Starts one plugin of the network: who wants to see it die half-way kills it.
    ///
    /// # Errors
    /// Any [`CniError`].
    pub fn start(
        &self,
        plugin: &Value,
        command: &'static str,
        what: Option<&Attachment>,
        previous: &Value,
    ) -> Result<Running, CniError> {
        let kind = plugin["type"].as_str().unwrap_or_default();
        let program = self.path.iter().map(|folder| folder.join(kind)).find(|file| file.is_file());
        let program = program.ok_or_else(|| CniError::NoPlugin(kind.into()))?;
        let fail = |source| CniError::Start { program: program.clone(), source };
        let folders: Vec<_> = self.path.iter().map(|folder| folder.display().to_string()).collect();
        let mut process = Command::new(&program);
        process
            .env("CNI_COMMAND", command)
            .env("CNI_PATH", folders.join(":"))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::options().create(true).append(true).open(&self.log).map_err(fail)?);
        if let Some(what) = what {
            process
                .env("CNI_CONTAINERID", &what.container)
                .env("CNI_NETNS", &what.netns)
                .env("CNI_IFNAME", &what.interface)
                .env("CNI_ARGS", &what.args);
        }
        let mut spawn = || process.spawn();
        let mut child = match &self.node_netns {
            None => spawn(),
            // A child is born in the namespace of the thread that starts it.
            Some(path) => netns::within(path, spawn)?,
        }
        .map_err(fail)?;
        let configuration = self.configuration(plugin, what, previous).to_string();
        // Who does not read it all has said why on its standard output, or died.
        if let Some(mut stdin) = child.stdin.take() {
            let _ = stdin.write_all(configuration.as_bytes());
        }
        let stdout = child.stdout.take();
        Ok(Running { child, stdout, said: Vec::new(), program, plugin: kind.to_owned() })
    }

    /// What a plugin is told on its standard input.
    fn configuration(&self, plugin: &Value, what: Option<&Attachment>, previous: &Value) -> Value {
        let mut configuration = plugin.clone();
        configuration["name"] = self.list["name"].clone();
        configuration["cniVersion"] = self.list["cniVersion"].clone();
        if !previous.is_null() {
            configuration["prevResult"] = previous.clone();
        }
        let supported = configuration["capabilities"].as_object().cloned().unwrap_or_default();
        let told: Map<_, _> = what
            .iter()
            .flat_map(|what| what.capabilities.clone())
            .filter(|(name, _)| supported.get(name).is_some_and(|wanted| wanted == true))
            .collect();
        if let Some(map) = configuration.as_object_mut() {
            map.remove("capabilities");
            if !told.is_empty() {
                map.insert("runtimeConfig".into(), told.into());
            }
        }
        configuration
    }
}

/// A plugin that is being executed.
#[derive(Debug)]
pub struct Running {
    child: Child,
    /// None: it has said all that it will say.
    stdout: Option<ChildStdout>,
    said: Vec<u8>,
    program: PathBuf,
    plugin: String,
}

impl Running {
    /// Whether it has not ended yet.
    ///
    /// # Errors
    /// It cannot be asked.
    pub fn is_running(&mut self) -> Result<bool, CniError> {
        let ended = self.child.try_wait();
        Ok(ended.map_err(|source| CniError::Start { program: self.program.clone(), source })?.is_none())
    }

    /// Takes what it says, for a while.
    fn listen(&mut self) {
        let Some(stdout) = &mut self.stdout else { return thread::sleep(ENDING) };
        let mut ready = [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)];
        if poll(&mut ready, LOOK_MS).is_ok_and(|count| count == 0) {
            return;
        }
        let mut piece = [0; 4096];
        match stdout.read(&mut piece) {
            Ok(length @ 1..) => self.said.extend_from_slice(&piece[..length]),
            Ok(0) | Err(_) => self.stdout = None,
        }
    }

    /// `kill -9`, unless it has ended.
    pub fn kill(&mut self) {
        // An error here says that it has ended.
        let _ = self.child.kill();
    }

    /// What it answered. One that still runs is killed.
    ///
    /// # Errors
    /// What it says is wrong, or how it ended.
    pub fn finish(mut self, command: &'static str) -> Result<Value, CniError> {
        self.kill();
        let fail = |source| CniError::Start { program: self.program.clone(), source };
        let status = self.child.wait().map_err(fail)?;
        // What cannot be read is not there: then the status tells.
        let _ = self.stdout.take().map(|mut stdout| stdout.read_to_end(&mut self.said));
        let output = String::from_utf8_lossy(&self.said).into_owned();
        let answer: Option<Value> = serde_json::from_str(&output).ok();
        let plugin = self.plugin.clone();
        match answer {
            _ if status.success() && output.trim().is_empty() => Ok(Value::Null),
            Some(answer) if status.success() => Ok(answer),
            Some(answer) if answer["code"].is_u64() => Err(CniError::Refused {
                plugin,
                command,
                code: answer["code"].as_u64().unwrap_or_default(),
                message: answer["msg"].as_str().unwrap_or_default().into(),
                details: answer["details"].as_str().map(|text| format!(": {text}")).unwrap_or_default(),
            }),
            _ => Err(CniError::Failed {
                plugin,
                command,
                how: status.to_string(),
                output: output.trim().to_owned(),
            }),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}

/// The addresses of a result.
#[must_use]
pub fn addresses(result: &Value) -> Vec<IpAddr> {
    let texts = result["ips"].as_array().into_iter().flatten().filter_map(|ip| ip["address"].as_str());
    texts.filter_map(|text| text.split('/').next().unwrap_or(text).parse().ok()).collect()
}

/// Makes a folder in which our plugins are, as links to `caracal`.
///
/// # Errors
/// It cannot be made.
pub fn plugin_folder(folder: &Path, caracal: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    ["caracal-cni", "caracal-ipam"].iter().try_for_each(|name| symlink(caracal, folder.join(name)))
}
