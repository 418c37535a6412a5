//! Addresses as flags give them.

/// An address of a flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// `none`.
    Nowhere,
    /// `host:port`, or `:port` for every address.
    At(String),
}

impl std::str::FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::Nowhere);
        }
        let port = text.rsplit_once(':').map(|(_, port)| port);
        match port.and_then(|port| port.parse::<u16>().ok()) {
            Some(_) => Ok(Self::At(text.to_owned())),
            None => Err("expected HOST:PORT, :PORT or none".to_owned()),
        }
    }
}

impl Wanted {
    /// The address, if there is to be one.
    #[must_use]
    pub fn address(self) -> Option<String> {
        match self {
            Self::Nowhere => None,
            Self::At(address) => Some(address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_address_is_refused_at_once() {
        for text in ["", "9099", "localhost", "host:", "host:x", "host:65536"] {
            assert!(text.parse::<Wanted>().is_err(), "{text}");
        }
    }
}
