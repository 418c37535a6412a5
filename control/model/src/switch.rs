//! Switches as people write them in environment variables: any word that one of Calico's programs takes for yes or no.

/// Whether a text says yes or no, in capitals or not; `None`: neither.
pub fn parse(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "t" | "yes" | "y" | "1" | "on" | "enabled" => Some(true),
        "false" | "f" | "no" | "n" | "0" | "off" | "disabled" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_all_of_calicos_programs_are_known_and_no_others() {
        for (yes, no) in [
            ("true", "false"),
            ("T", "F"),
            ("Yes", "No"),
            ("1", " 0"),
            ("on", "off"),
            ("Enabled", "DISABLED"),
        ] {
            assert_eq!((parse(yes), parse(no)), (Some(true), Some(false)), "{yes} {no}");
        }
        for neither in ["", "2", "ja", "truefalse", "none"] {
            assert_eq!(parse(neither), None, "{neither}");
        }
    }
}
