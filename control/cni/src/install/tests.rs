use std::os::unix::fs::PermissionsExt;

use super::*;

fn install(directory: &Path) -> Install {
    let secrets = directory.join("secrets");
    fs::create_dir_all(&secrets).unwrap();
    fs::write(secrets.join("ca.crt"), "the CA").unwrap();
    fs::write(secrets.join("token"), "first\n").unwrap();
    fs::write(directory.join("caracal"), "#!/bin/sh\n").unwrap();
    Install {
        program: directory.join("caracal"),
        bin_dir: directory.join("bin"),
        conf_dir: directory.join("net.d"),
        conf_dir_on_host: "/etc/cni/net.d".into(),
        conf_name: "10-caracal.conflist".into(),
        kubeconfig_name: "caracal-kubeconfig".into(),
        template: None,
        credentials: Credentials::ServiceAccount { directory: secrets, host: "fd00::1".into(), port: 443 },
        node: "node1".into(),
        mtu: 0,
        log_level: "info".into(),
    }
}

#[test]
fn the_kubeconfig_is_the_service_accounts_and_follows_its_token() {
    let directory = tempfile::tempdir().unwrap();
    let install = install(directory.path());
    assert!(install.refresh().unwrap());
    let path = directory.path().join("net.d/caracal-kubeconfig");
    let read = || serde_json::from_slice::<Value>(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(read()["users"][0]["user"]["token"], "first");
    assert_eq!(read()["clusters"][0]["cluster"]["server"], "https://[fd00::1]:443");
    assert_eq!(read()["clusters"][0]["cluster"]["certificate-authority-data"], "dGhlIENB");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!install.refresh().unwrap(), "the same again is left");
    fs::write(directory.path().join("secrets/token"), "second").unwrap();
    assert!(install.refresh().unwrap());
    assert_eq!(read()["users"][0]["user"]["token"], "second");
    // Nothing else is left in the directory that runtimes read.
    assert_eq!(fs::read_dir(directory.path().join("net.d")).unwrap().count(), 1);
}

#[test]
fn the_configuration_is_filled_in_and_judged_by_the_plugin_itself() {
    let directory = tempfile::tempdir().unwrap();
    let mut install = install(directory.path());
    let list: Value = serde_json::from_str(&install.configuration(ApiGroup::Crd).unwrap()).unwrap();
    let plugin = &list["plugins"][0];
    assert_eq!((&plugin["nodename"], &plugin["mtu"]), (&json!("node1"), &json!(0)));
    assert_eq!(plugin["calico_api_group"], "crd.projectcalico.org/v1");
    assert_eq!(plugin["kubernetes"]["kubeconfig"], "/etc/cni/net.d/caracal-kubeconfig");
    assert_eq!(list["plugins"][1]["type"], "portmap");

    install.template = Some(r#"{"name": "x", "plugins": [{"type": "calico", "mtu": "__CNI_MTU__"}]}"#.into());
    let error = install.configuration(ApiGroup::V3).unwrap_err().to_string();
    assert!(error.contains("mtu: "), "{error}");
    install.template = Some(r#"{"name": "x", "plugins": [{"type": "bridge"}]}"#.into());
    assert!(matches!(install.configuration(ApiGroup::V3), Err(InstallError::NotOurs)));
    install.template = Some("{".into());
    assert!(matches!(install.configuration(ApiGroup::V3), Err(InstallError::NotJson(_))));
}

#[test]
fn binaries_are_replaced_while_they_run_and_removed_with_all_else_but_others() {
    let directory = tempfile::tempdir().unwrap();
    let install = install(directory.path());
    install.binaries().unwrap();
    let running = File::open(directory.path().join("bin/caracal-cni")).unwrap();
    fs::write(&install.program, "newer").unwrap();
    install.binaries().unwrap();
    assert_eq!(io::read_to_string(running).unwrap(), "#!/bin/sh\n");
    for name in BINARIES {
        let path = directory.path().join("bin").join(name);
        assert_eq!(fs::read_to_string(&path).unwrap(), "newer");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o755);
    }

    install.refresh().unwrap();
    let conf = |name: &str| install.conf_dir.join(name);
    fs::write(conf("10-caracal.conflist"), r#"{"plugins": [{"type": "caracal-cni"}]}"#).unwrap();
    fs::write(conf("05-caracal.conflist"), r#"{"plugins": [{"type": "caracal-cni"}]}"#).unwrap();
    fs::write(conf("10-calico.conflist"), r#"{"plugins": [{"type": "calico"}]}"#).unwrap();
    fs::write(conf("87-podman.conflist"), "{").unwrap();
    fs::write(directory.path().join("bin/portmap"), "").unwrap();
    install.uninstall().unwrap();
    install.uninstall().unwrap();
    let mut left: Vec<_> =
        fs::read_dir(&install.conf_dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["10-calico.conflist", "87-podman.conflist"]);
    assert_eq!(fs::read_dir(&install.bin_dir).unwrap().count(), 1);
}
