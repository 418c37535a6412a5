//! Reading maps of a case file: each field asked for by name, each one not asked for an error, each error with its line.

use crate::yaml::{Tree, TreeValue};

use super::CaseError;

/// A value and the path to it.
#[derive(Clone)]
pub(super) struct Item<'a> {
    pub path: String,
    pub tree: &'a Tree,
}

/// A map that is being read.
pub(super) struct Fields<'a> {
    item: Item<'a>,
    entries: &'a [(String, Tree)],
    asked: Vec<&'static str>,
}

impl<'a> Item<'a> {
    pub fn error(&self, message: impl Into<String>) -> CaseError {
        CaseError { line: self.tree.line, field: self.path.clone(), message: message.into() }
    }

    fn expected(&self, what: &str) -> CaseError {
        self.error(format!("expected {what}, found {}", self.tree.describe()))
    }

    pub fn fields(&self) -> Result<Fields<'a>, CaseError> {
        match &self.tree.value {
            TreeValue::Map(entries) => Ok(Fields { item: self.clone(), entries, asked: Vec::new() }),
            _ => Err(self.expected("a map")),
        }
    }

    pub fn items(&self) -> Result<Vec<Item<'a>>, CaseError> {
        match &self.tree.value {
            TreeValue::Sequence(items) => {
                let items = items.iter().enumerate();
                Ok(items
                    .map(|(index, tree)| Item { path: format!("{}[{index}]", self.path), tree })
                    .collect())
            }
            _ => Err(self.expected("a list")),
        }
    }

    pub fn text(&self) -> Result<&'a str, CaseError> {
        match &self.tree.value {
            TreeValue::String(text) => Ok(text),
            _ => Err(self.expected("a string")),
        }
    }

    /// A string or a whole number, as text.
    pub fn word(&self) -> Result<String, CaseError> {
        match &self.tree.value {
            TreeValue::String(text) => Ok(text.clone()),
            TreeValue::Number(number) if number.is_u64() => Ok(number.to_string()),
            _ => Err(self.expected("a name or a number")),
        }
    }

    pub fn number(&self, least: u64, most: u64) -> Result<u64, CaseError> {
        let number = match &self.tree.value {
            TreeValue::Number(number) => number.as_u64(),
            _ => return Err(self.expected("a number")),
        };
        match number {
            Some(number) if (least..=most).contains(&number) => Ok(number),
            _ => Err(self.error(format!("must be a whole number from {least} to {most}"))),
        }
    }

    pub fn boolean(&self) -> Result<bool, CaseError> {
        match &self.tree.value {
            TreeValue::Bool(boolean) => Ok(*boolean),
            _ => Err(self.expected("true or false")),
        }
    }

    pub fn port(&self) -> Result<u16, CaseError> {
        Ok(u16::try_from(self.number(1, 65535)?).unwrap_or_default())
    }

    pub fn byte(&self) -> Result<u8, CaseError> {
        Ok(u8::try_from(self.number(0, 255)?).unwrap_or_default())
    }
}

impl<'a> Fields<'a> {
    /// The field, unless it is missing or null.
    pub fn optional(&mut self, name: &'static str) -> Option<Item<'a>> {
        self.asked.push(name);
        let (_, tree) = self.entries.iter().find(|(key, _)| key == name)?;
        let is_null = matches!(tree.value, TreeValue::Null);
        (!is_null).then(|| Item { path: join(&self.item.path, name), tree })
    }

    pub fn required(&mut self, name: &'static str) -> Result<Item<'a>, CaseError> {
        let line = self.item.tree.line;
        let field = join(&self.item.path, name);
        self.optional(name).ok_or(CaseError { line, field, message: "is missing".to_owned() })
    }

    /// The items of a list; none when the field is missing or null.
    pub fn list(&mut self, name: &'static str) -> Result<Vec<Item<'a>>, CaseError> {
        self.optional(name).map_or(Ok(Vec::new()), |item| item.items())
    }

    /// The end of reading: a field that nothing asked for is an error.
    pub fn finish(self) -> Result<(), CaseError> {
        match self.entries.iter().find(|(key, _)| !self.asked.contains(&key.as_str())) {
            None => Ok(()),
            Some((key, tree)) => {
                let item = Item { path: join(&self.item.path, key), tree };
                Err(item.error(format!("unknown field; known here are {}", self.asked.join(", "))))
            }
        }
    }
}

pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
