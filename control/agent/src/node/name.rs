//! What this node is called.

use super::settings::SettingsError;

const HOST_NAME: &str = "/proc/sys/kernel/hostname";

/// The name of this node's Node object: as told, else `NODENAME`, `HOSTNAME`, or what the operating system calls this
/// host; always in lower case, as Kubernetes has it.
///
/// # Errors
/// None of them names anything.
pub fn node_name(
    told: Option<&str>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<String, SettingsError> {
    let given = |text: String| Some(text.trim().to_lowercase()).filter(|text| !text.is_empty());
    let host = || std::fs::read_to_string(HOST_NAME).ok();
    told.map(str::to_owned)
        .and_then(given)
        .or_else(|| variable("NODENAME").and_then(given))
        .or_else(|| variable("HOSTNAME").and_then(given))
        .or_else(|| host().and_then(given))
        .ok_or(SettingsError::NoName)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(told: Option<&str>, environment: &[(&str, &str)]) -> String {
        let find =
            |key: &str| environment.iter().find(|(name, _)| *name == key).map(|(_, value)| (*value).into());
        node_name(told, find).unwrap()
    }

    #[test]
    fn the_first_that_names_anything_counts_in_lower_case() {
        let both = [("HOSTNAME", "Host"), ("NODENAME", " Node-1\n")];
        assert_eq!(name(Some("Told"), &both), "told");
        assert_eq!(name(Some(""), &both), "node-1");
        assert_eq!(name(None, &both), "node-1");
        assert_eq!(name(None, &both[..1]), "host");
        assert_eq!(name(None, &[("NODENAME", ""), ("HOSTNAME", "h")]), "h");
        assert_eq!(name(None, &[]), std::fs::read_to_string(HOST_NAME).unwrap().trim().to_lowercase());
    }
}
