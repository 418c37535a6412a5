//! Reads case files.

use super::{Case, CaseError};

impl Case {
    /// Reads a case file. Unknown fields are errors; every error names the line and the field.
    pub fn parse(text: &str) -> Result<Self, CaseError> {
        let _ = text;
        Err(CaseError { line: 1, field: String::new(), message: "being written".to_owned() })
    }
}
