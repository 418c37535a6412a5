//! Files of the project, and those among them that are made.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

/// The project's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the project").to_owned()
}

/// What a file of the project says.
pub fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The objects in a text of YAML documents.
pub fn objects(text: &str) -> Vec<Value> {
    caracal_model::manifest::parse(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// That a made file is what it would be, made now; or makes it so.
pub fn is_current(path: &str, made: &str) {
    let file = root().join(path);
    if env::var_os("BLESS").is_some() {
        fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        fs::write(&file, made).expect("a file");
        return;
    }
    let there = fs::read_to_string(&file).unwrap_or_default();
    let differs = there.lines().zip(made.lines()).position(|(there, made)| there != made);
    let line = differs.unwrap_or_else(|| there.lines().count().min(made.lines().count())) + 1;
    assert!(
        there == made,
        "{path} is not what it is made from, from line {line} on: BLESS=1 cargo test -p caracal-tests --test deploy"
    );
}
