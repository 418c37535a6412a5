//! The image. There is no container engine where the tests run: what it is built by is run here, and what it holds.

use std::{fs, path::Path, process::Command};

use crate::{
    chart::render,
    files::{objects, read, root},
};

/// The instructions of a Dockerfile, as (name, arguments); lines that go on are one.
fn instructions(text: &str) -> Vec<(String, String)> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    let whole = lines.join("\n").replace("\\\n", " ");
    let lines = whole.lines().map(str::trim).filter(|line| !line.is_empty());
    lines
        .map(|line| line.split_once(' ').unwrap_or((line, "")))
        .map(|(name, arguments)| (name.to_owned(), arguments.trim().to_owned()))
        .collect()
}

#[test]
fn the_image_has_no_shell_and_no_root_of_its_own() {
    let all = instructions(&read("deploy/Dockerfile"));
    let known = ["FROM", "RUN", "WORKDIR", "COPY", "LABEL", "USER", "ENTRYPOINT", "CMD"];
    assert!(all.iter().all(|(name, _)| known.contains(&name.as_str())), "{all:?}");
    let last = all.iter().rposition(|(name, _)| name == "FROM").expect("a stage");
    let runtime = &all[last..];
    assert_eq!(runtime[0].1, "scratch");
    assert!(!runtime.iter().any(|(name, _)| name == "RUN"), "nothing can be run where there is no shell");
    let argument = |name: &str| {
        let found = runtime.iter().find(|(instruction, _)| instruction == name);
        found.unwrap_or_else(|| panic!("no {name}")).1.clone()
    };
    assert_eq!(argument("USER"), "65532:65532");
    assert_eq!(argument("COPY"), "--from=build /image/ /");
    for name in ["ENTRYPOINT", "CMD"] {
        let words: Vec<String> =
            serde_json::from_str(&argument(name)).expect("a list, so that no shell is asked");
        assert!(!words.is_empty());
    }
    let built =
        all[..last].iter().any(|(name, run)| name == "RUN" && run.contains("deploy/build-image-tree"));
    assert!(built, "the image's files are those that deploy/build-image-tree makes");
}

/// What the context of the image's build has, copied.
fn context(into: &Path) {
    let ignore = read("deploy/Dockerfile.dockerignore");
    let kept: Vec<&str> = ignore.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git runs");
    for file in String::from_utf8(listed.stdout).expect("text").lines() {
        let inside = kept.iter().any(|kept| file == *kept || file.starts_with(&format!("{kept}/")));
        if inside && root().join(file).is_file() && !file.contains("/fuzz/") {
            let copy = into.join(file);
            fs::create_dir_all(copy.parent().expect("a folder")).expect("a folder");
            fs::copy(root().join(file), copy).expect("a file");
        }
    }
}

#[test]
fn the_context_of_the_build_is_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    context(folder.path());
    assert!(folder.path().join("deploy/build-image-tree").is_file());
    // For other platforms nothing was downloaded.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--offline", "--format-version", "1", "--filter-platform", &platform])
        .current_dir(folder.path())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Builds for a quarter of an hour: `CARACAL_LONG=1`.
#[test]
fn the_images_programs_run_where_there_is_nothing_else() {
    if std::env::var_os("CARACAL_LONG").is_none() {
        println!("left out: needs CARACAL_LONG=1");
        return;
    }
    let (source, image) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    context(source.path());
    let built = Command::new(source.path().join("deploy/build-image-tree"))
        .arg(image.path())
        .env("CARGO_TARGET_DIR", source.path().join("target"))
        .output()
        .expect("it runs");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let inside = |arguments: &[&str]| {
        let output = Command::new("chroot").arg(image.path()).args(arguments).output().expect("chroot runs");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    assert!(inside(&["/usr/bin/caracal", "--version"]).starts_with("caracal "));
    assert!(inside(&["/usr/bin/caracal-fastpath", "--version"]).contains(env!("CARGO_PKG_VERSION")));
    // What the manifests start is there.
    for object in objects(&render(&[]).expect("it renders")) {
        let pod = &object["spec"]["template"]["spec"];
        for list in ["initContainers", "containers"] {
            for container in pod[list].as_array().into_iter().flatten() {
                let command = container["command"][0].as_str().expect("a command");
                assert!(image.path().join(&command[1..]).is_file(), "{command}");
            }
        }
    }
}
