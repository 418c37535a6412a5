//! `caracal-cni` and `caracal-ipam`: this binary under the name of a CNI plugin.

use std::io::IsTerminal;
use std::process::ExitCode;

use caracal_cni::plugin::Plugin;

/// Typed by hand, for people and installers.
const HELP: &str = r#"
A CNI plugin (specification 0.1.0 to 1.1.0). A container runtime executes it; it is no command for people, but for trying:

    runtime ── environment: CNI_COMMAND ADD, DEL, CHECK, GC, STATUS or VERSION; CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME, CNI_ARGS, CNI_PATH
            ── stdin: the network's configuration, as JSON
            ◄─ stdout: the result, or an error with its code, as JSON; exit status 0, or 1

Which versions it speaks, and whether pods can be attached on this node (no output: yes):

    echo '{}' | CNI_COMMAND=VERSION PROGRAM
    echo '{"cniVersion": "1.1.0", "name": "k8s-pod-network", "type": "PROGRAM",
           "kubernetes": {"kubeconfig": "/etc/cni/net.d/caracal-kubeconfig"}, "ipam": {"type": "calico-ipam"}}' |
        CNI_COMMAND=STATUS PROGRAM

Options:
    -h, --help       this
    -v, --version    its version
    -t               try the API server that the configuration on stdin names

Configuration, errors and what ADD does in which order are in docs/cni.md; `caracal install-cni --help` puts it where runtimes look.
"#;

/// The plugin that this binary is executed as, if it is.
pub fn plugin() -> Option<Plugin> {
    let program = std::env::args_os().next()?;
    Plugin::of_name(std::path::Path::new(&program).file_name()?.to_str()?)
}

/// Does what a container runtime asks for; and for people and installers, as Calico's does: `-v` prints the version, `-t` tries the API
/// server that the configuration on stdin names. Who types the name alone is told what this is, instead of being waited for.
pub fn run(plugin: Plugin) -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("-v" | "--version") => {
            println!("{}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Some("-h" | "--help") => {
            print!("{}", help(plugin));
            ExitCode::SUCCESS
        }
        Some("-t") => ExitCode::from(Plugin::try_datastore()),
        None if std::env::var_os("CNI_COMMAND").is_none() && std::io::stdin().is_terminal() => {
            eprint!("{}", help(plugin));
            ExitCode::FAILURE
        }
        _ => ExitCode::from(plugin.main()),
    }
}

fn help(plugin: Plugin) -> String {
    let (name, what) = match plugin {
        Plugin::Main => ("caracal-cni", "attaches pods to the network, and detaches them"),
        Plugin::Ipam => ("caracal-ipam", "gives pods their addresses, and takes them back"),
    };
    format!("{name} {}: {what}.\n{}", env!("CARGO_PKG_VERSION"), HELP.replace("PROGRAM", name))
}
