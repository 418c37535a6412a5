//! A node without Kubernetes: a host of its own (network, mounts, files), on which containers are started as a manifest says. Of a
//! container runtime there is what these containers depend on: capabilities, volumes, a root that cannot be written, `/proc/sys` that can
//! only be read, a user. There is no seccomp, no AppArmor, no device cgroup.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::apply::program;

/// The host's files: what a distribution has, and nothing that was installed. Ends with the process that holds it.
const HOST: &str = r#"
set -e
h=$1
mount -t tmpfs -o mode=755 host "$h"
mkdir -p "$h"/{usr,proc,sys,dev,etc,run/netns,var/lib,opt,tmp,containers}
ln -s ../run "$h/var/run"
for folder in bin sbin lib lib64; do [ -e "/usr/$folder" ] && ln -s "usr/$folder" "$h/$folder"; done
mount --rbind /usr "$h/usr"
mount --rbind /proc "$h/proc"
mount --rbind /dev "$h/dev"
mount -t sysfs sysfs "$h/sys"
mount -t bpf bpf "$h/sys/fs/bpf"
ip link set lo up
echo ready
exec sleep infinity
"#;

/// A container's files, and the program in them. `$1`: its root, `$2`: the host's, `$3`: a folder of programs, `$4`: a kubeconfig,
/// `$5`: volumes as host path:mount path, a line each; then what setpriv is told, and the command.
const CONTAINER: &str = r#"
set -e
r=$1 h=$2 programs=$3 kubeconfig=$4 volumes=$5
shift 5
mkdir -p "$r"
mount -t tmpfs -o mode=755 root "$r"
mkdir -p "$r"/usr/{bin,lib,lib64} "$r"/{proc,sys,dev,etc}
for folder in lib lib64; do
  ln -s "usr/$folder" "$r/$folder"
  [ -d "/usr/$folder" ] && mount --bind -o ro "/usr/$folder" "$r/usr/$folder"
done
for file in "$programs"/caracal "$programs"/caracal-fastpath /usr/bin/setpriv; do
  touch "$r/usr/bin/$(basename "$file")"
  mount --bind -o ro "$file" "$r/usr/bin/$(basename "$file")"
done
mount --rbind /proc "$r/proc"
mount --bind "$r/proc/sys" "$r/proc/sys"
mount -o remount,bind,ro "$r/proc/sys"
mount -t sysfs -o ro sysfs "$r/sys"
for device in null zero full random urandom; do touch "$r/dev/$device"; mount --bind "/dev/$device" "$r/dev/$device"; done
while IFS=: read -r from to; do
  [ -n "$from" ] || continue
  [ -e "$h$from" ] || mkdir -p "$h$from"
  if [ -d "$h$from" ]; then mkdir -p "$r$to"; else mkdir -p "$(dirname "$r$to")"; touch "$r$to"; fi
  mount --bind "$h$from" "$r$to"
done <<< "$volumes"
install -m 0444 "$kubeconfig" "$r/etc/kubeconfig"
mount -o remount,ro "$r"
exec chroot "$r" /usr/bin/setpriv "$@"
"#;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// Such a node.
pub struct Machine {
    holder: Child,
    pub name: String,
    root: PathBuf,
    link: String,
    /// On the link to it, this side's and its own.
    pub here: String,
    pub there: String,
    _folder: TempDir,
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Its devices, mounts and network go with it; the link's other end goes with the one in there, but later.
        let _ = Command::new("ip").args(["link", "delete", &self.link]).output();
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// What was started on a machine, and is killed with this.
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Waits for its end; whether that was a good one.
    pub fn succeeds(mut self) -> bool {
        self.0.wait().expect("a child").success()
    }
}

impl Machine {
    /// A host that is called so, on a link of its own.
    pub fn start(name: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().join("host");
        fs::create_dir(&root).expect("a folder");
        let mut holder = Command::new("unshare")
            .args(["--mount", "--net", "--propagation", "private", "bash", "-c", HOST, "host"])
            .arg(&root)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare runs");
        let mut ready = String::new();
        let _ = BufReader::new(holder.stdout.take().expect("a pipe")).read_line(&mut ready);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let number = std::process::id() % 60000 * 4 + count;
        let net = format!("198.{}.{}", 18 + number / 256 % 2, number % 256);
        let machine = Self {
            link: format!("crt{}-{count}", std::process::id()),
            name: name.to_owned(),
            root,
            here: format!("{net}.1"),
            there: format!("{net}.2"),
            holder,
            _folder: folder,
        };
        assert_eq!(ready.trim(), "ready", "the host's files could not be made");
        let pid = machine.holder.id().to_string();
        does(Command::new("ip").args([
            "link",
            "add",
            &machine.link,
            "type",
            "veth",
            "peer",
            "name",
            "uplink0",
            "netns",
            &pid,
        ]));
        does(Command::new("ip").args([
            "address",
            "add",
            &format!("{}/24", machine.here),
            "dev",
            &machine.link,
        ]));
        does(Command::new("ip").args(["link", "set", &machine.link, "up"]));
        machine.host(&["ip", "address", "add", &format!("{}/24", machine.there), "dev", "uplink0"]);
        machine.host(&["ip", "link", "set", "uplink0", "up"]);
        machine.host(&["ip", "route", "add", "default", "via", &machine.here]);
        machine
    }

    /// A file of the host's.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{}{path}", self.holder.id(), self.root.display()))
    }

    fn inside(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.id().to_string(), "--mount", "--net", "--"]);
        command
    }

    /// Runs a command on the host, with nothing in its environment but this, and this as its input.
    pub fn try_host(&self, command: &[&str], environment: &[(&str, &str)], input: &str) -> Output {
        let mut child = self
            .inside()
            .arg("chroot")
            .arg(&self.root)
            .args(command)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("nsenter runs");
        child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("input");
        child.wait_with_output().expect("a child")
    }

    /// The same; it must succeed. What it prints.
    pub fn host(&self, command: &[&str]) -> String {
        let output = self.try_host(command, &[], "");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{command:?}: {out}{err}");
        out.into_owned()
    }

    /// Starts a container of a pod, as rendered; `configuration` is what its ConfigMaps hold. It reaches the API server by a kubeconfig,
    /// not as a pod. Its output goes to a file.
    pub fn container(
        &self,
        pod: &Value,
        name: &str,
        configuration: &Value,
        kubeconfig: &Path,
        output: &Path,
    ) -> Running {
        let lists =
            ["initContainers", "containers"].map(|list| pod[list].as_array().cloned().unwrap_or_default());
        let container = lists.iter().flatten().find(|container| container["name"] == name);
        let container = container.unwrap_or_else(|| panic!("no container {name}"));
        let environment = self.environment(container, configuration);
        let expanded = |word: &Value| {
            let word = word.as_str().expect("a text").to_owned();
            environment.iter().fold(word, |word, (name, value)| word.replace(&format!("$({name})"), value))
        };
        let words = |list: &str| container[list].as_array().cloned().unwrap_or_default();
        let log = fs::File::create(output).expect("a file");
        let child = self
            .inside()
            .args(["unshare", "--mount", "--propagation", "private", "bash", "-c", CONTAINER, "container"])
            .arg(self.root.join("containers").join(name))
            .arg(&self.root)
            .arg(program("caracal").parent().expect("a folder"))
            .arg(kubeconfig)
            .arg(volumes(pod, container))
            .args(privileges(pod, container))
            .args(words("command").iter().map(expanded))
            .args(words("args").iter().map(expanded))
            .args((container["name"] != "fastpath").then_some("--kubeconfig=/etc/kubeconfig"))
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .envs(&environment)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .spawn()
            .expect("nsenter runs");
        Running(child)
    }

    fn environment(&self, container: &Value, configuration: &Value) -> BTreeMap<String, String> {
        let mut environment = BTreeMap::new();
        if container["envFrom"].is_array() {
            for (name, value) in configuration.as_object().expect("a ConfigMap's data") {
                environment.insert(name.clone(), value.as_str().expect("a text").to_owned());
            }
        }
        for variable in container["env"].as_array().into_iter().flatten() {
            let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
                Some("spec.nodeName") => self.name.clone(),
                Some(other) => panic!("what is {other} here?"),
                None => variable["value"].as_str().expect("a value").to_owned(),
            };
            environment.insert(variable["name"].as_str().expect("a name").to_owned(), value);
        }
        environment
    }
}

/// A container's volumes, as host path:mount path.
fn volumes(pod: &Value, container: &Value) -> String {
    let of_pod = pod["volumes"].as_array().cloned().unwrap_or_default();
    let mounts = container["volumeMounts"].as_array().cloned().unwrap_or_default();
    let line = |mount: &Value| {
        let volume = of_pod.iter().find(|volume| volume["name"] == mount["name"]).expect("a volume");
        let path = volume["hostPath"]["path"].as_str().expect("a path on the host");
        format!("{path}:{}\n", mount["mountPath"].as_str().expect("a path"))
    };
    mounts.iter().map(line).collect()
}

/// What setpriv is told of a container's capabilities and user.
fn privileges(pod: &Value, container: &Value) -> Vec<String> {
    let security = &container["securityContext"];
    assert_eq!(security["capabilities"]["drop"][0], "ALL", "every container says which capabilities it has");
    assert_eq!(security["readOnlyRootFilesystem"], true);
    let added = security["capabilities"]["add"].as_array().cloned().unwrap_or_default();
    let added: String =
        added.iter().map(|one| format!(",+{}", one.as_str().expect("a name").to_lowercase())).collect();
    let mut told = vec![format!("--bounding-set=-all{added}"), "--inh-caps=-all".to_owned()];
    if let Some(user) = pod["securityContext"]["runAsUser"].as_u64().filter(|user| *user != 0) {
        told.extend([format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".to_owned()]);
    }
    if security["allowPrivilegeEscalation"] == false {
        told.push("--no-new-privs".to_owned());
    }
    told.push("--".to_owned());
    told
}

fn does(command: &mut Command) {
    let output = command.output().expect("ip runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
