use super::*;

fn read(environment: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    Settings::read(|key| {
        environment.iter().find(|(name, _)| *name == key).map(|(_, value)| (*value).to_owned())
    })
}

#[test]
fn without_a_word_it_is_as_calico_has_it() {
    let settings = read(&[]).unwrap();
    assert_eq!((settings.v4.source, settings.v4.method), (Source::Keep, Method::FirstFound));
    assert_eq!((settings.v6.source, settings.backend), (Source::None, Backend::Bird));
    assert!(settings.check_conflicts && settings.as_number.is_none());
    let [v4, v6] = settings.pools.unwrap();
    assert_eq!((v4.cidr, v6.cidr), (None, None));
    let text = |pool: &DefaultPool| serde_json::to_string(&pool.spec).unwrap();
    assert_eq!(
        text(&v4),
        r#"{"cidr":"","vxlanMode":"Never","ipipMode":"Always","natOutgoing":true,"blockSize":26,"nodeSelector":"all()","allowedUses":["Workload","Tunnel"],"assignmentMode":"Automatic"}"#
    );
    assert_eq!(
        text(&v6),
        r#"{"cidr":"","vxlanMode":"Never","ipipMode":"Never","natOutgoing":false,"blockSize":122,"nodeSelector":"all()","allowedUses":["Workload","Tunnel"],"assignmentMode":"Automatic"}"#
    );
}

#[test]
fn every_variable_is_heeded() {
    let settings = read(&[
        ("IP", "192.0.2.7/24"),
        ("IP6", "2001:db8::7"),
        ("IP_AUTODETECTION_METHOD", "can-reach=192.0.2.1"),
        ("AS", "64512.7"),
        ("DISABLE_NODE_IP_CHECK", "true"),
        ("CALICO_NETWORKING_BACKEND", "vxlan"),
        ("CALICO_IPV4POOL_CIDR", "10.48.0.0/16"),
        ("CALICO_IPV4POOL_VXLAN", "CrossSubnet"),
        ("CALICO_IPV4POOL_BLOCK_SIZE", "24"),
        ("CALICO_IPV4POOL_NAT_OUTGOING", "false"),
        ("CALICO_IPV4POOL_NODE_SELECTOR", "zone == 'a'"),
        ("CALICO_IPV4POOL_DISABLE_BGP_EXPORT", "true"),
        ("CALICO_IPV6POOL_CIDR", "fd00:48::/48"),
        ("CALICO_IPV6POOL_VXLAN", "Always"),
        ("CALICO_IPV6POOL_NAT_OUTGOING", "true"),
        ("CLUSTER_TYPE", "k8s,kubeadm"),
    ])
    .unwrap();
    assert_eq!(settings.v4.source, Source::Address("192.0.2.7".parse().unwrap(), Some(24)));
    assert_eq!(settings.v6.source, Source::Address("2001:db8::7".parse().unwrap(), None));
    assert_eq!(settings.v4.method, Method::CanReach("192.0.2.1".into()));
    assert_eq!((settings.as_number.as_deref(), settings.backend), (Some("64512.7"), Backend::Vxlan));
    assert!(!settings.check_conflicts);
    assert_eq!(settings.cluster_type, "k8s,kubeadm");
    let [v4, v6] = settings.pools.unwrap();
    assert_eq!(v4.cidr.unwrap().to_string(), "10.48.0.0/16");
    assert_eq!(
        (v4.spec.ipip_mode.as_deref(), v4.spec.vxlan_mode.as_deref()),
        (Some("Never"), Some("CrossSubnet"))
    );
    assert_eq!(
        (v4.spec.block_size, v4.spec.nat_outgoing, v4.spec.disable_bgp_export),
        (Some(24), Some(false), Some(true))
    );
    assert_eq!(v4.spec.node_selector.as_deref(), Some("zone == 'a'"));
    assert_eq!((v6.spec.vxlan_mode.as_deref(), v6.spec.nat_outgoing), (Some("Always"), Some(true)));
    assert_eq!(read(&[("NO_DEFAULT_POOLS", "true")]).unwrap().pools, None);
}

#[test]
fn what_makes_no_sense_is_named() {
    for (variable, value) in [
        ("IP", "1.2.3"),
        ("IP", "fd00::1"),
        ("IP", "10.0.0.1/33"),
        ("IP6", "10.0.0.1"),
        ("IP_AUTODETECTION_METHOD", "guess"),
        ("IP_AUTODETECTION_METHOD", "interface=("),
        ("IP_AUTODETECTION_METHOD", "interface="),
        ("IP6_AUTODETECTION_METHOD", "cidr=10.0.0.0/33"),
        ("AS", "four"),
        ("AS", "1.70000"),
        ("CALICO_NETWORKING_BACKEND", "ospf"),
        ("NO_DEFAULT_POOLS", "maybe"),
        ("CALICO_IPV4POOL_CIDR", "fd00::/48"),
        ("CALICO_IPV4POOL_CIDR", "10.0.0.0/27"),
        ("CALICO_IPV4POOL_BLOCK_SIZE", "33"),
        ("CALICO_IPV6POOL_BLOCK_SIZE", "64"),
        ("CALICO_IPV4POOL_IPIP", "sometimes"),
        ("CALICO_IPV4POOL_NAT_OUTGOING", "2"),
    ] {
        let error = read(&[(variable, value)]).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{variable}={value}: ")), "{error}");
    }
    let both = read(&[("CALICO_IPV4POOL_IPIP", "Always"), ("CALICO_IPV4POOL_VXLAN", "Always")]).unwrap_err();
    assert!(both.to_string().contains("one encapsulation"), "{both}");
    let none = read(&[("NO_DEFAULT_POOLS", "true"), ("CALICO_IPV4POOL_CIDR", "10.0.0.0/16")]).unwrap_err();
    assert_eq!(none, SettingsError::PoolsAndNone("CALICO_IPV4POOL_CIDR"));
    assert_eq!(read(&[("IP", "none")]).unwrap_err(), SettingsError::NoAddress);
    assert!(read(&[("IP", "none"), ("IP6", "autodetect")]).is_ok());
}

#[test]
fn what_is_empty_counts_as_not_set() {
    let names = ["IP", "IP6", "AS", "IP_AUTODETECTION_METHOD", "CALICO_IPV4POOL_CIDR", "NO_DEFAULT_POOLS"];
    let empty: Vec<(&str, &str)> = names.iter().map(|name| (*name, " ")).collect();
    assert_eq!(read(&empty).unwrap(), read(&[]).unwrap());
}
