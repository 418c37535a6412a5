//! `caracal-cni` and `caracal-ipam`: this binary under the name of a CNI plugin.

use std::process::ExitCode;

use caracal_cni::plugin::Plugin;

/// The plugin that this binary is executed as, if it is.
pub fn plugin() -> Option<Plugin> {
    let program = std::env::args_os().next()?;
    Plugin::of_name(std::path::Path::new(&program).file_name()?.to_str()?)
}

/// Does what a container runtime asks for; and for people and installers, as Calico's does: `-v` prints the version, `-t` tries the API
/// server that the configuration on stdin names.
pub fn run(plugin: Plugin) -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("-v" | "--version") => {
            println!("{}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Some("-t") => ExitCode::from(Plugin::try_datastore()),
        _ => ExitCode::from(plugin.main()),
    }
}
