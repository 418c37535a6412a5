use super::*;

fn overrides(variables: &[(&str, &str)]) -> Result<Overrides, EnvironmentError> {
    let find = |name: &str| variables.iter().find(|(known, _)| *known == name);
    Overrides::read(|name| find(name).map(|(_, value)| (*value).to_owned()))
}

fn settings(configuration: Value, variables: &[(&str, &str)]) -> Settings {
    let spec: KubeControllersConfigurationSpec = serde_json::from_value(configuration).unwrap();
    Settings::new(Some(&spec), &overrides(variables).unwrap())
}

#[test]
fn without_configuration_and_environment_calicos_defaults_hold() {
    let settings = Settings::new(None, &Overrides::default());
    let node = settings.node.clone().unwrap();
    assert_eq!((node.period, node.leak_grace_period), (Duration::from_secs(300), Duration::from_secs(900)));
    assert_eq!((node.auto_create, node.create_default, node.templates.len()), (false, true, 0));
    assert_eq!(settings.load_balancer, Some(LoadBalancerSettings { all_services: true }));
    assert_eq!((settings.metrics_port, settings.health_checks), (9094, true));
    assert_eq!(settings.status()["runningConfig"]["controllers"]["node"]["leakGracePeriod"], "15m");
}

#[test]
fn a_controller_without_its_section_does_not_run() {
    let settings = settings(json!({"controllers": {"loadBalancer": {}}}), &[]);
    assert!(settings.node.is_none() && settings.load_balancer.is_some());
}

#[test]
fn the_environment_goes_before_the_configuration_and_is_published() {
    let configuration = json!({
        "logSeverityScreen": "Info",
        "controllers": {"node": {"reconcilerPeriod": "1m", "hostEndpoint": {"autoCreate": "Disabled"}}, "loadBalancer": {}},
    });
    let settings = settings(
        configuration,
        &[
            ("ENABLED_CONTROLLERS", "node,policy"),
            ("AUTO_HOST_ENDPOINTS", "enabled"),
            ("RECONCILER_PERIOD", "30s"),
            ("LOG_LEVEL", "debug"),
            ("SYNC_NODE_LABELS", ""),
        ],
    );
    let node = settings.node.clone().unwrap();
    assert_eq!((node.period, node.auto_create), (Duration::from_secs(30), true));
    assert_eq!((settings.load_balancer, settings.log_severity.as_str()), (None, "Debug"));
    let status = settings.status();
    assert_eq!(status["environmentVars"]["ENABLED_CONTROLLERS"], "node,policy");
    assert_eq!(status["environmentVars"].get("SYNC_NODE_LABELS"), None);
    assert_eq!(status["runningConfig"]["controllers"]["node"]["hostEndpoint"]["autoCreate"], "Enabled");
    assert_eq!(status["runningConfig"]["controllers"].get("policy"), None);
}

#[test]
fn a_grace_period_of_zero_is_none_at_all() {
    let settings = settings(json!({"controllers": {"node": {"leakGracePeriod": "0s"}}}), &[]);
    assert_eq!(settings.node.unwrap().leak_grace_period, Duration::ZERO);
}

#[test]
fn an_environment_that_makes_no_sense_is_refused_by_name() {
    for (variable, value) in [
        ("LOG_LEVEL", "loud"),
        ("RECONCILER_PERIOD", "5"),
        ("ENABLED_CONTROLLERS", "nodes"),
        ("HEALTH_ENABLED", "maybe"),
    ] {
        let error = overrides(&[(variable, value)]).unwrap_err();
        assert_eq!((error.variable, error.value.as_str()), (variable, value));
    }
}
