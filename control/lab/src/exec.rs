//! Running a command inside a pod or on a node of a lab.

use std::{
    os::unix::process::ExitStatusExt,
    process::{Command, Stdio},
    str::FromStr,
};

use caracal_cni::netns;

use crate::{error::LabError, process::MARK, state::State};

/// Where a command is to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `node/NAME`.
    Node(String),
    /// `NAMESPACE/POD`.
    Pod {
        /// Its namespace, of Kubernetes.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// `outside`: where all hosts outside the cluster are.
    Outside,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some(("node", name)) if !name.is_empty() => Ok(Self::Node(name.into())),
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self::Pod { namespace: namespace.into(), name: name.into() })
            }
            None if text == "outside" => Ok(Self::Outside),
            _ => Err("expected NAMESPACE/POD, node/NAME or outside".into()),
        }
    }
}

/// Runs a command in a lab, with this process's terminal, and returns its exit status as a shell would.
///
/// # Errors
/// There is no such place, or the command cannot be started.
pub fn exec(state: &State, target: &Target, command: &[String]) -> Result<u8, LabError> {
    let place = match target {
        Target::Node(name) => state.node(name)?.netns.clone(),
        Target::Pod { namespace, name } => state.pod(namespace, name)?.netns.clone(),
        Target::Outside => format!("crl-{}.outside", state.name),
    };
    let Some((program, arguments)) = command.split_first() else { return Ok(0) };
    let fail = |source| LabError::Start { program: program.clone(), source };
    // The mark lets `lab down` end it with everything else.
    let spawn = || {
        // The machine's /sys would show the machine's devices.
        netns::own_sysfs().map_err(|source| LabError::Sysfs { place: place.clone(), source })?;
        Command::new(program)
            .args(arguments)
            .env(MARK, &state.run)
            .stdin(Stdio::inherit())
            .stdout(Stdio::inherit())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(fail)
    };
    let mut child = netns::within(&netns::path(&place), spawn)??;
    let status = child.wait().map_err(fail)?;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(2);
    Ok(u8::try_from(code).unwrap_or(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_pod_or_a_node() {
        let pod = Target::Pod { namespace: "shop".into(), name: "web".into() };
        assert_eq!("shop/web".parse(), Ok(pod));
        assert_eq!("node/node1".parse(), Ok(Target::Node("node1".into())));
        assert_eq!("outside".parse(), Ok(Target::Outside));
        for bad in ["", "web", "/web", "shop/", "a/b/c", "node/"] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }
}
