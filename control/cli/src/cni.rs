//! `caracal-cni` and `caracal-ipam`: this binary under the name of a CNI plugin.

use std::process::ExitCode;

use caracal_cni::plugin::Plugin;

/// The plugin that this binary is executed as, if it is.
pub fn plugin() -> Option<Plugin> {
    let program = std::env::args_os().next()?;
    Plugin::of_name(std::path::Path::new(&program).file_name()?.to_str()?)
}

/// Does what a container runtime asks for.
pub fn run(plugin: Plugin) -> ExitCode {
    ExitCode::from(plugin.main())
}
