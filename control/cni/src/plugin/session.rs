//! What the commands share: the way to the API server, made when it is first needed; the node's name; one command at a time for a pod.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use caracal_datastore::Datastore;
use caracal_ipam::World;
use caracal_model::object::{Kind, Object};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use tokio::sync::OnceCell;

use super::config::Config;
use super::error::PluginError;

/// How long the command before may still take: longer than it waits for the pod's policy.
const TURN_PATIENCE: Duration = Duration::from_secs(60);
const TURN_POLL: Duration = Duration::from_millis(5);

/// The way to the API server of a network.
///
/// # Errors
/// There is none.
pub async fn datastore(config: &Config) -> Result<Datastore, PluginError> {
    datastore_in(config, None).await
}

/// The way to the API server, made when it is first needed: where the agent asks on our behalf, that is never.
#[derive(Debug)]
pub struct Way<'a> {
    config: &'a Config,
    /// Where Calico's kinds are, if somebody has told: nobody asks for it then.
    group: Option<&'a str>,
    made: OnceCell<Datastore>,
}

impl<'a> Way<'a> {
    /// None yet.
    #[must_use]
    pub fn new(config: &'a Config, group: Option<&'a str>) -> Self {
        Self { config, group, made: OnceCell::new() }
    }

    /// Makes it, or uses the one before.
    ///
    /// # Errors
    /// There is none.
    pub async fn datastore(&self) -> Result<&Datastore, PluginError> {
        self.made.get_or_try_init(|| datastore_in(self.config, self.group)).await
    }
}

async fn datastore_in(config: &Config, group: Option<&str>) -> Result<Datastore, PluginError> {
    let client =
        caracal_datastore::client_at(config.kubeconfig.as_deref(), config.api_root.as_deref()).await?;
    let group = config.api_group.or_else(|| group?.parse().ok());
    Ok(Datastore::connect(client, group).await?)
}

/// Refuses to go on while the objects may not be used, as during an upgrade of Calico's.
///
/// # Errors
/// They may not, or the API server could not be asked.
pub async fn check_ready(datastore: &Datastore) -> Result<(), PluginError> {
    match datastore.get(Kind::ClusterInformation, None, "default").await {
        Ok(Object::ClusterInformation(information)) if information.spec.datastore_ready == Some(false) => {
            Err(PluginError::NotReady(
                "ClusterInformation default says datastoreReady: false: the cluster's network is being changed, try again later".into(),
            ))
        }
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What address management reads, as a node and a namespace see it.
///
/// # Errors
/// The API server could not be asked.
pub async fn world(
    datastore: &Datastore,
    node: Option<&str>,
    namespace: Option<&str>,
) -> Result<World, PluginError> {
    Ok(datastore.ipam_world(node, namespace).await?)
}

/// The name of this node.
///
/// # Errors
/// It is not known.
pub fn node_name(config: &Config) -> Result<String, PluginError> {
    let node = &config.node;
    if let Some(name) = &node.explicit {
        return Ok(name.clone());
    }
    let file = node.file.display().to_string();
    match std::fs::read_to_string(&node.file) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(PluginError::io(format!("read {file}"))(error));
        }
        _ if node.file_optional => {}
        _ => return Err(PluginError::NodeName { file }),
    }
    if let Some(name) = &node.hostname {
        return Ok(name.clone());
    }
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_err(PluginError::io("read the host's name"))?;
    Ok(name.trim().to_lowercase())
}

/// The largest packet of the node's pods.
///
/// # Errors
/// The file that should say it does not, and must be there.
pub fn mtu(config: &Config) -> Result<u32, PluginError> {
    /// Where nobody says, as Calico has it.
    const USUAL: u32 = 1460;
    if let Some(mtu) = config.mtu {
        return Ok(mtu);
    }
    let file = config.mtu_file.display();
    match std::fs::read_to_string(&config.mtu_file) {
        Ok(text) => text.trim().parse().ok().filter(|mtu| (68..=65_535).contains(mtu)).ok_or_else(|| {
            PluginError::NotReady(format!(
                "{file} holds {:?}, which is no MTU; the agent writes it when it starts",
                text.trim().chars().take(20).collect::<String>()
            ))
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => match config.require_mtu_file {
            true => {
                Err(PluginError::NotReady(format!("{file} is not there; the agent writes it when it starts")))
            }
            false => Ok(USUAL),
        },
        Err(error) => Err(PluginError::io(format!("read {file}"))(error)),
    }
}

/// The file of a lock. Nobody but its owner may open it: who can, can hold it, and keep every pod waiting.
pub(super) fn lock_file(path: &Path) -> io::Result<File> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    File::options().create(true).truncate(false).read(true).write(true).mode(0o600).open(path)
}

/// While it lives, no other command works on the same pod's link. It is one byte of a file beside address management's lock, which the
/// interface's name chooses; who is killed leaves it free.
#[derive(Debug)]
pub struct Turn {
    _locked: File,
}

impl Turn {
    /// Waits for the command before.
    ///
    /// # Errors
    /// It does not end.
    pub fn take(config: &Config, interface: &str) -> Result<Self, PluginError> {
        let path = config.ipam_lock.with_file_name("cni-turns.lock");
        let doing = || PluginError::io(format!("lock {}", path.display()));
        let file = lock_file(&path).map_err(doing())?;
        let byte = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: byte_of(interface),
            l_len: 1,
            l_pid: 0,
        };
        let begin = Instant::now();
        loop {
            // Of the open file and not of the process, so that commands of one process wait for each other, too.
            match fcntl(&file, FcntlArg::F_OFD_SETLK(&byte)) {
                Ok(_) => return Ok(Self { _locked: file }),
                Err(Errno::EAGAIN | Errno::EACCES) if begin.elapsed() > TURN_PATIENCE => {
                    return Err(PluginError::NotReady(format!(
                        "another command still works on {interface} after {} s",
                        TURN_PATIENCE.as_secs()
                    )));
                }
                Err(Errno::EAGAIN | Errno::EACCES) => std::thread::sleep(TURN_POLL),
                Err(error) => return Err(doing()(error.into())),
            }
        }
    }
}

/// Its last seven characters, as a number. Interfaces that have these in common take turns without need, and come to no harm.
fn byte_of(interface: &str) -> i64 {
    interface.bytes().rev().take(7).fold(0, |number, byte| number << 8 | i64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    #[test]
    fn commands_for_one_interface_take_turns_and_nobody_else_can_take_one() {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config::parse(br#"{"name": "net"}"#).unwrap();
        config.ipam_lock = directory.path().join("run/ipam.lock");
        let ended = AtomicBool::new(false);
        let first = Turn::take(&config, "cali0123456789a").unwrap();
        let file = config.ipam_lock.with_file_name("cni-turns.lock");
        let mode = std::fs::metadata(file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        Turn::take(&config, "cali0123456789b").unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| {
                let _turn = Turn::take(&config, "cali0123456789a").unwrap();
                assert!(ended.load(SeqCst), "two at once");
            });
            std::thread::sleep(TURN_POLL * 4);
            ended.store(true, SeqCst);
            drop(first);
            second.join().unwrap();
        });
    }
}
