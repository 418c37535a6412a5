//! What a runtime says in the environment: `CNI_COMMAND` and its company.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

/// The variables that a plugin reads, as they came.
pub type Variables = BTreeMap<String, String>;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Attach a container.
    Add,
    /// Detach it.
    Del,
    /// See whether it is attached as it should be.
    Check,
    /// Release what no attachment needs any more.
    Gc,
    /// See whether ADD would work.
    Status,
    /// Say which versions are spoken.
    Version,
}

/// Why the environment cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    /// A variable that the command needs.
    #[error(
        "{0} is not set; it is a container runtime that sets it, `caracal-cni` is not a command for people"
    )]
    Missing(&'static str),
    /// A variable that makes no sense.
    #[error("{variable}={value:?}: {why}")]
    Bad {
        /// Which.
        variable: &'static str,
        /// What it is.
        value: String,
        /// What it must be.
        why: &'static str,
    },
}

impl EnvError {
    fn bad(variable: &'static str, value: &str, why: &'static str) -> Self {
        // What comes from outside may be long; an error is for people.
        Self::Bad { variable, value: value.chars().take(100).collect(), why }
    }
}

impl Command {
    /// Reads `CNI_COMMAND`.
    ///
    /// # Errors
    /// It is not set, or no command.
    pub fn read(variables: &Variables) -> Result<Self, EnvError> {
        match get(variables, "CNI_COMMAND").ok_or(EnvError::Missing("CNI_COMMAND"))? {
            "ADD" => Ok(Self::Add),
            "DEL" => Ok(Self::Del),
            "CHECK" => Ok(Self::Check),
            "GC" => Ok(Self::Gc),
            "STATUS" => Ok(Self::Status),
            "VERSION" => Ok(Self::Version),
            other => {
                Err(EnvError::bad("CNI_COMMAND", other, "must be ADD, DEL, CHECK, GC, STATUS or VERSION"))
            }
        }
    }

    /// The version of the specification that brought it, if it was not always there.
    #[must_use]
    pub fn since(self) -> super::version::Version {
        use super::version::Version;
        match self {
            Self::Check => Version::V0_4_0,
            Self::Gc | Self::Status => Version::V1_1_0,
            Self::Add | Self::Del | Self::Version => Version::V0_1_0,
        }
    }
}

/// The attachment that ADD, DEL and CHECK are about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The container, as its runtime names it.
    pub container: String,
    /// Its network namespace; `None` at DEL when it is gone.
    pub netns: Option<PathBuf>,
    /// Its interface.
    pub interface: String,
    /// What the runtime adds about it.
    pub arguments: Arguments,
}

/// `CNI_ARGS`, as far as anything here asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Arguments {
    /// The pod's namespace.
    pub namespace: Option<String>,
    /// The pod's name.
    pub pod: Option<String>,
    /// The pod's UID, as its kubelet knows it.
    pub uid: Option<String>,
    /// The address that the container is to have.
    pub address: Option<IpAddr>,
}

impl Attachment {
    /// Reads what the command is about.
    ///
    /// # Errors
    /// A variable is missing or makes no sense.
    pub fn read(variables: &Variables, command: Command) -> Result<Self, EnvError> {
        let need = |name: &'static str| get(variables, name).ok_or(EnvError::Missing(name));
        let container = need("CNI_CONTAINERID")?;
        if !is_identifier(container) {
            let why = "must begin with a letter or digit, and consist of letters, digits, '_', '.' and '-'";
            return Err(EnvError::bad("CNI_CONTAINERID", container, why));
        }
        let interface = need("CNI_IFNAME")?;
        if !is_interface_name(interface) {
            let why = "must be the name of an interface: 1 to 15 characters without '/', ':', '%' and blanks";
            return Err(EnvError::bad("CNI_IFNAME", interface, why));
        }
        let netns = get(variables, "CNI_NETNS").map(PathBuf::from);
        if netns.is_none() && command != Command::Del {
            return Err(EnvError::Missing("CNI_NETNS"));
        }
        let arguments = Arguments::parse(get(variables, "CNI_ARGS").unwrap_or_default())?;
        Ok(Self { container: container.to_owned(), netns, interface: interface.to_owned(), arguments })
    }

    /// The pod, if the runtime says that it is one: its namespace and name.
    #[must_use]
    pub fn pod(&self) -> Option<(&str, &str)> {
        Some((self.arguments.namespace.as_deref()?, self.arguments.pod.as_deref()?))
    }
}

impl Arguments {
    /// Reads `KEY=VALUE;KEY=VALUE`. Keys that nobody here knows are left out, with or without `IgnoreUnknown`, as Calico does.
    fn parse(text: &str) -> Result<Self, EnvError> {
        let bad = |why| EnvError::bad("CNI_ARGS", text, why);
        let mut arguments = Self::default();
        for pair in text.split(';').filter(|pair| !pair.trim().is_empty()) {
            let (key, value) =
                pair.split_once('=').ok_or_else(|| bad("must be KEY=VALUE pairs, separated by ';'"))?;
            let value = value.trim();
            let text = || (!value.is_empty()).then(|| value.to_owned());
            match key.trim() {
                "K8S_POD_NAMESPACE" => arguments.namespace = text(),
                "K8S_POD_NAME" => arguments.pod = text(),
                "K8S_POD_UID" => arguments.uid = text(),
                "IP" if !value.is_empty() => {
                    arguments.address = Some(value.parse().map_err(|_| bad("IP must be an address"))?);
                }
                _ => {}
            }
        }
        // They become part of a URL.
        for name in [&arguments.namespace, &arguments.pod].into_iter().flatten() {
            let legal =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
            if name.len() > 253
                || !name.bytes().all(legal)
                || !name.starts_with(|c: char| c.is_ascii_alphanumeric())
            {
                return Err(bad("K8S_POD_NAMESPACE and K8S_POD_NAME must be names of Kubernetes objects"));
            }
        }
        Ok(arguments)
    }
}

/// Where plugins are: `CNI_PATH`.
#[must_use]
pub fn plugin_path(variables: &Variables) -> Vec<PathBuf> {
    get(variables, "CNI_PATH").map(|path| std::env::split_paths(path).collect()).unwrap_or_default()
}

/// Whether a text may name a container, or a network.
#[must_use]
pub fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

fn is_interface_name(text: &str) -> bool {
    // The kernel puts a number in place of a `%d`.
    let is_legal = |c: char| !(matches!(c, '/' | ':' | '%') || c.is_whitespace() || c.is_control());
    (1..=15).contains(&text.len()) && text != "." && text != ".." && text.chars().all(is_legal)
}

fn get<'a>(variables: &'a Variables, name: &str) -> Option<&'a str> {
    variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    const ADD: &[(&str, &str)] = &[
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "0f3c"),
        ("CNI_NETNS", "/var/run/netns/x"),
        ("CNI_IFNAME", "eth0"),
        (
            "CNI_ARGS",
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=1-2;IP=10.0.0.7;Foo=a=b",
        ),
    ];

    #[test]
    fn an_attachment_is_read_and_what_nobody_knows_is_left_out() {
        let attachment = Attachment::read(&variables(ADD), Command::Add).unwrap();
        assert_eq!(attachment.pod(), Some(("shop", "web-0")));
        assert_eq!(attachment.arguments.uid.as_deref(), Some("1-2"));
        assert_eq!(attachment.arguments.address, Some("10.0.0.7".parse().unwrap()));
        assert_eq!(attachment.interface, "eth0");
    }

    #[test]
    fn what_is_missing_is_named() {
        for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
            let mut some = variables(ADD);
            some.remove(name);
            assert_eq!(Attachment::read(&some, Command::Add), Err(EnvError::Missing(name)));
        }
        assert_eq!(Command::read(&Variables::new()), Err(EnvError::Missing("CNI_COMMAND")));
    }

    #[test]
    fn a_namespace_that_is_gone_is_fine_at_del_alone() {
        let mut some = variables(ADD);
        some.insert("CNI_NETNS".into(), String::new());
        assert_eq!(Attachment::read(&some, Command::Del).unwrap().netns, None);
        assert!(Attachment::read(&some, Command::Check).is_err());
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let cases = [
            ("CNI_CONTAINERID", "-x"),
            ("CNI_CONTAINERID", "a/b"),
            ("CNI_IFNAME", "eth%d"),
            ("CNI_IFNAME", ".."),
            ("CNI_IFNAME", "a:b"),
            ("CNI_IFNAME", "sixteencharacter"),
            ("CNI_ARGS", "novalue"),
            ("CNI_ARGS", "IP=tomorrow"),
            ("CNI_ARGS", "K8S_POD_NAME=../../secrets"),
        ];
        for (name, value) in cases {
            let mut some = variables(ADD);
            some.insert(name.into(), value.into());
            let error = Attachment::read(&some, Command::Add).unwrap_err();
            assert!(error.to_string().starts_with(name), "{error}");
        }
        assert!(Command::read(&variables(&[("CNI_COMMAND", "add")])).is_err());
    }

    proptest! {
        #[test]
        fn no_environment_makes_it_panic(container in ".*", netns in ".*", interface in ".*", args in ".*", command in ".*") {
            let some = variables(&[
                ("CNI_COMMAND", &command), ("CNI_CONTAINERID", &container), ("CNI_NETNS", &netns),
                ("CNI_IFNAME", &interface), ("CNI_ARGS", &args),
            ]);
            let _ = Command::read(&some);
            if let Ok(attachment) = Attachment::read(&some, Command::Add) {
                prop_assert!(attachment.interface.len() <= 15);
                prop_assert!(!attachment.container.contains('/'));
            }
        }
    }
}
