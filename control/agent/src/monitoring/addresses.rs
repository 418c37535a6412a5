//! Where health and metrics are served. Pure.
//!
//! The first that says so counts, as with Calico's agent: the flag, the environment (`FELIX_HEALTHPORT`, …), the FelixConfigurations
//! that apply to the node, the default. Health is served unless somebody says no; metrics only if somebody says yes.

use std::cell::RefCell;

use caracal_model::convert::MonitoringSettings;
use caracal_model::switch;
use caracal_monitor::Wanted;

/// What is said on the command line and in the environment: it does not change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fixed {
    health: Option<Wanted>,
    metrics: Option<Wanted>,
    health_enabled: Option<bool>,
    health_host: Option<String>,
    health_port: Option<u16>,
    metrics_enabled: Option<bool>,
    metrics_host: Option<String>,
    metrics_port: Option<u16>,
    log_severity: Option<String>,
    nonsense: Vec<String>,
}

impl Fixed {
    /// What the flags `--health-address` and `--metrics-address` say.
    #[must_use]
    pub fn new(health: Option<Wanted>, metrics: Option<Wanted>) -> Self {
        Self { health, metrics, ..Self::default() }
    }

    /// With what the environment says; `variable` looks one up. What cannot be read is as if it were not there, as with Calico's agent, and
    /// among the [`Fixed::nonsense`].
    #[must_use]
    pub fn with_environment(mut self, variable: impl Fn(&str) -> Option<String>) -> Self {
        let text =
            |name: &str| variable(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let nonsense = RefCell::new(Vec::new());
        let wrong = |name: &str, said: &str, expected: &str| {
            nonsense.borrow_mut().push(format!("{name}={said} is ignored: it must be {expected}"));
        };
        let flag = |name: &str| {
            let said = text(name)?;
            switch::parse(&said).or_else(|| {
                wrong(name, &said, "true or false");
                None
            })
        };
        let port = |name: &str| {
            let said = text(name)?;
            said.parse().map_err(|_| wrong(name, &said, "a port, 0 to 65535")).ok()
        };
        self.health_enabled = flag("FELIX_HEALTHENABLED");
        self.health_host = text("FELIX_HEALTHHOST");
        self.health_port = port("FELIX_HEALTHPORT");
        self.metrics_enabled = flag("FELIX_PROMETHEUSMETRICSENABLED");
        self.metrics_host = text("FELIX_PROMETHEUSMETRICSHOST");
        self.metrics_port = port("FELIX_PROMETHEUSMETRICSPORT");
        self.log_severity = text("FELIX_LOGSEVERITYSCREEN");
        self.nonsense = nonsense.into_inner();
        self
    }

    /// What of the environment cannot be read, a line for each.
    #[must_use]
    pub fn nonsense(&self) -> &[String] {
        &self.nonsense
    }

    /// Where health is served; `None`: nowhere.
    #[must_use]
    pub fn health_address(&self, settings: &MonitoringSettings) -> Option<String> {
        match &self.health {
            Some(Wanted::At(address)) => return Some(address.clone()),
            Some(Wanted::Nowhere) => return None,
            None => {}
        }
        if !self.health_enabled.or(settings.health_enabled).unwrap_or(true) {
            return None;
        }
        let host = self.health_host.as_ref().or(settings.health_host.as_ref());
        // Not by name: a probe asks the address.
        let host = host.map_or("127.0.0.1", |host| if host == "localhost" { "127.0.0.1" } else { host });
        Some(joined(host, self.health_port.or(settings.health_port).unwrap_or(9099)))
    }

    /// Where metrics are served; `None`: nowhere.
    ///
    /// # Errors
    /// Why not, though they are wanted.
    pub fn metrics_address(&self, settings: &MonitoringSettings) -> Result<Option<String>, &'static str> {
        let address = match &self.metrics {
            Some(Wanted::At(address)) => Some(address.clone()),
            Some(Wanted::Nowhere) => None,
            None => {
                let enabled = self.metrics_enabled.or(settings.metrics_enabled).unwrap_or(false);
                let host = self.metrics_host.as_ref().or(settings.metrics_host.as_ref());
                let port = self.metrics_port.or(settings.metrics_port).unwrap_or(9091);
                enabled.then(|| joined(host.map_or("", String::as_str), port))
            }
        };
        // Who asks for certificates does not want to be read without.
        match address {
            Some(_) if settings.metrics_want_tls => Err(
                "metrics are not served: FelixConfiguration asks for TLS (prometheusMetricsCertFile, …), which this agent does not speak; remove those fields, or put a proxy that does before --metrics-address 127.0.0.1:9091",
            ),
            address => Ok(address),
        }
    }

    /// What is logged, by the name of a severity.
    #[must_use]
    pub fn log_severity<'a>(&'a self, settings: &'a MonitoringSettings) -> Option<&'a str> {
        self.log_severity.as_deref().or(settings.log_severity.as_deref())
    }
}

fn joined(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &'static [(&str, &str)]) -> Fixed {
        Fixed::default().with_environment(|name| {
            pairs.iter().find(|(other, _)| *other == name).map(|(_, text)| (*text).to_owned())
        })
    }

    #[test]
    fn health_is_served_unless_somebody_says_no_and_metrics_if_somebody_says_yes() {
        let (fixed, unsaid) = (Fixed::default(), MonitoringSettings::default());
        assert_eq!(fixed.health_address(&unsaid).as_deref(), Some("127.0.0.1:9099"));
        assert_eq!(fixed.metrics_address(&unsaid), Ok(None));
        let said = MonitoringSettings {
            health_enabled: Some(false),
            metrics_enabled: Some(true),
            ..MonitoringSettings::default()
        };
        assert_eq!(fixed.health_address(&said), None);
        assert_eq!(fixed.metrics_address(&said), Ok(Some(":9091".to_owned())));
    }

    #[test]
    fn flags_come_before_the_environment_and_that_before_objects() {
        let settings = MonitoringSettings {
            health_host: Some("localhost".to_owned()),
            health_port: Some(1),
            metrics_enabled: Some(true),
            metrics_host: Some("fd00::1".to_owned()),
            log_severity: Some("Debug".to_owned()),
            ..MonitoringSettings::default()
        };
        let mut fixed = environment(&[("FELIX_HEALTHPORT", "2"), ("FELIX_LOGSEVERITYSCREEN", "Error")]);
        assert_eq!(fixed.health_address(&settings).as_deref(), Some("127.0.0.1:2"));
        assert_eq!(fixed.metrics_address(&settings), Ok(Some("[fd00::1]:9091".to_owned())));
        assert_eq!(fixed.log_severity(&settings), Some("Error"));
        fixed.health = Some("none".parse().unwrap());
        fixed.metrics = Some(":3".parse().unwrap());
        assert_eq!(fixed.health_address(&settings), None);
        assert_eq!(fixed.metrics_address(&settings), Ok(Some(":3".to_owned())));
        let off = environment(&[("FELIX_PROMETHEUSMETRICSENABLED", "false"), ("FELIX_HEALTHPORT", "x")]);
        assert_eq!(off.metrics_address(&settings), Ok(None));
        assert_eq!(off.health_address(&settings).as_deref(), Some("127.0.0.1:1"));
        assert_eq!(off.nonsense(), ["FELIX_HEALTHPORT=x is ignored: it must be a port, 0 to 65535"]);
        let on =
            environment(&[("FELIX_HEALTHENABLED", "maybe"), ("FELIX_PROMETHEUSMETRICSENABLED", "Enabled")]);
        assert_eq!(on.metrics_address(&MonitoringSettings::default()), Ok(Some(":9091".to_owned())));
        assert_eq!(on.nonsense(), ["FELIX_HEALTHENABLED=maybe is ignored: it must be true or false"]);
    }

    #[test]
    fn metrics_that_should_be_encrypted_are_not_served_in_the_clear() {
        let tls = MonitoringSettings {
            metrics_enabled: Some(true),
            metrics_want_tls: true,
            ..MonitoringSettings::default()
        };
        assert!(Fixed::default().metrics_address(&tls).is_err());
    }
}
