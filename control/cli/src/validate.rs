//! `caracal validate`: whether objects are such as the API takes, and everything that is wrong with those that are not.

use std::fs;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use caracal_model::calico;
use caracal_model::manifest;
use caracal_model::object::{FieldError, Kind, Object};
use serde_json::{Value, json};

use crate::policy::Output;
use crate::table::{emit, table};

/// Check objects as the API server would, without a cluster: every field, all errors at once.
///
/// Reads YAML and JSON: any number of documents, and lists (kind: List). Knows Kubernetes' Namespace, Node, Pod, Service,
/// ServiceAccount, EndpointSlice, NetworkPolicy and ClusterNetworkPolicy, and every kind of projectcalico.org/v3, also as
/// crd.projectcalico.org/v1 stores it. Defaults are filled in before objects are checked. An object of another kind is
/// not valid.
///
/// With -o json, prints one document: {"objects": [{"kind", "namespace", "name", "valid", "errors": [{"field",
/// "message"}]}]}. The namespace of an object of a kind without namespaces is "".
///
/// Exit status: 0 when all objects are valid, 1 when one is not, 2 when a file cannot be read or is not YAML; the objects
/// of the other files are reported all the same.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  caracal validate -f policy.yaml
  caracal validate -f policies/ -f extra.yaml -o json
  kubectl get globalnetworkpolicies -o yaml | caracal validate -f -")]
pub struct Args {
    /// A file, a folder (its .yaml, .yml and .json files), or - for stdin. Can be given several times.
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// How to print the report.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// Runs `caracal validate`.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut report = Report::default();
    for file in &args.files {
        report.add(file);
    }
    for failure in &report.unread {
        eprintln!("caracal: {failure}");
    }
    match args.output {
        Output::Table => emit(&report.to_table()),
        Output::Json => emit(&format!("{}\n", report.to_json())),
    }
    Ok(ExitCode::from(report.exit_status()))
}

/// What was found.
#[derive(Debug, Default)]
struct Report {
    objects: Vec<Checked>,
    /// What could not be read, and why.
    unread: Vec<String>,
    /// The valid objects: some must not come beside others.
    valid: Vec<Object>,
}

/// An object and what is wrong with it.
#[derive(Debug)]
struct Checked {
    kind: String,
    namespace: String,
    name: String,
    errors: Vec<FieldError>,
}

impl Report {
    /// Adds the objects of a file, of the files of a folder, or of stdin.
    fn add(&mut self, argument: &Path) {
        if argument == Path::new("-") {
            let mut bytes = Vec::new();
            let read = io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes);
            self.add_bytes("(stdin)", read);
        } else if argument.is_dir() {
            match files_of(argument) {
                Ok(files) if files.is_empty() => {
                    let folder = argument.display();
                    self.unread.push(format!("there is no .yaml, .yml or .json file in {folder}"));
                }
                Ok(files) => files.iter().for_each(|file| self.add_file(file)),
                Err(error) => {
                    self.unread.push(format!("cannot list the folder {}: {error}", argument.display()));
                }
            }
        } else {
            self.add_file(argument);
        }
    }

    fn add_file(&mut self, file: &Path) {
        self.add_bytes(&file.display().to_string(), fs::read(file));
    }

    fn add_bytes(&mut self, name: &str, bytes: io::Result<Vec<u8>>) {
        let text = match bytes.map(String::from_utf8) {
            Ok(Ok(text)) => text,
            Ok(Err(error)) => {
                let good = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
                let line = 1 + good.iter().filter(|&&byte| byte == b'\n').count();
                return self.unread.push(format!("{name}: line {line}: not UTF-8 text"));
            }
            Err(error) => return self.unread.push(format!("cannot read {name}: {error}")),
        };
        match manifest::parse(&text) {
            Ok(objects) => objects.into_iter().for_each(|object| self.add_object(object)),
            Err(error) => self.unread.push(format!("{name}: {error}")),
        }
    }

    fn add_object(&mut self, object: Value) {
        let text =
            |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (kind, mut namespace, name) =
            (text("/kind"), text("/metadata/namespace"), text("/metadata/name"));
        let object = calico::from_stored(object);
        let api_version = object.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
        let known = object
            .get("kind")
            .and_then(Value::as_str)
            .and_then(|kind| Kind::from_manifest(api_version, kind));
        if namespace.is_empty() && known.is_some_and(Kind::is_namespaced) {
            namespace = "default".to_owned();
        }
        let checked = Object::accept(object).and_then(|object| {
            let errors = object.validate_creation(&self.valid);
            if errors.is_empty() { Ok(object) } else { Err(errors) }
        });
        let errors = match checked {
            Ok(object) => {
                self.valid.push(object);
                Vec::new()
            }
            Err(errors) => errors,
        };
        self.objects.push(Checked { kind, namespace, name, errors });
    }

    fn exit_status(&self) -> u8 {
        if !self.unread.is_empty() {
            2
        } else {
            u8::from(self.objects.iter().any(|object| !object.errors.is_empty()))
        }
    }

    fn to_json(&self) -> Value {
        let objects: Vec<Value> = self.objects.iter().map(Checked::to_json).collect();
        json!({"objects": objects})
    }

    /// A row for every object, and one more for every further error of it.
    fn to_table(&self) -> String {
        let (good, bad, plain) =
            if io::stdout().is_terminal() { ("\x1b[32m", "\x1b[31m", "\x1b[0m") } else { ("", "", "") };
        let mut rows = Vec::new();
        for object in &self.objects {
            let mut who = [&object.kind, &object.namespace, &object.name].map(|text| printable(text));
            if object.errors.is_empty() {
                let [kind, namespace, name] = who;
                rows.push([kind, namespace, name, format!("{good}valid{plain}")]);
                continue;
            }
            for error in &object.errors {
                let [kind, namespace, name] = std::mem::take(&mut who);
                rows.push([kind, namespace, name, format!("{bad}{}{plain}", printable(&error.to_string()))]);
            }
        }
        table(["KIND", "NAMESPACE", "NAME", "RESULT"], &rows)
    }
}

impl Checked {
    fn to_json(&self) -> Value {
        let error = |error: &FieldError| json!({"field": error.field, "message": error.message});
        json!({
            "kind": self.kind,
            "namespace": self.namespace,
            "name": self.name,
            "valid": self.errors.is_empty(),
            "errors": self.errors.iter().map(error).collect::<Vec<Value>>(),
        })
    }
}

/// The manifests in a folder, in the order of their names.
fn files_of(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let is_manifest = |path: &Path| {
        path.extension()
            .is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
    };
    let paths: io::Result<Vec<PathBuf>> =
        fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut files: Vec<PathBuf> = paths?.into_iter().filter(|path| is_manifest(path)).collect();
    files.sort();
    Ok(files)
}

/// A text of somebody's on one line of a terminal, which it must not control.
fn printable(text: &str) -> String {
    let one = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(text: &str) -> Report {
        let mut report = Report::default();
        report.add_bytes("test.yaml", Ok(text.as_bytes().to_vec()));
        report
    }

    #[test]
    fn every_object_is_reported_with_all_its_errors() {
        let report = report(
            "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: a}\nspec: {order: 1}\n---\n\
             apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: p, namespace: x}\n\
             spec: {order: first, typos: 1, ingress: [{action: allow}]}\n",
        );
        assert_eq!(report.exit_status(), 1);
        let json = report.to_json();
        let valid = json!({"kind": "Tier", "namespace": "", "name": "a", "valid": true, "errors": []});
        assert_eq!(json["objects"][0], valid);
        let refused = &json["objects"][1];
        assert_eq!((&refused["namespace"], &refused["valid"]), (&json!("x"), &json!(false)));
        let fields: Vec<&Value> =
            refused["errors"].as_array().unwrap().iter().map(|error| &error["field"]).collect();
        assert_eq!(fields, ["spec.order", "spec.typos", "spec.ingress[0].action"]);
        let table = report.to_table();
        assert_eq!(table.lines().count(), 5, "{table}");
    }

    #[test]
    fn an_unknown_kind_is_an_object_that_is_not_valid() {
        let report = report("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d, namespace: x}\n");
        assert_eq!(report.exit_status(), 1);
        assert_eq!(report.to_json()["objects"][0]["errors"][0]["field"], "kind");
        assert_eq!(report.to_json()["objects"][0]["kind"], "Deployment");
    }

    #[test]
    fn what_is_no_yaml_is_named_with_its_line_and_the_rest_is_reported() {
        let mut report = report("a: 1\nb: [1,\n");
        assert_eq!(report.unread.len(), 1);
        assert!(report.unread[0].starts_with("test.yaml: line 2: "), "{:?}", report.unread);
        report.add_bytes("good.yaml", Ok(b"{apiVersion: v1, kind: Namespace, metadata: {name: n}}".to_vec()));
        report.add(Path::new("/nonexistent.yaml"));
        report.add_bytes("bad.yaml", Ok(b"a: 1\nb: \xff\n".to_vec()));
        assert_eq!(report.unread[2], "bad.yaml: line 2: not UTF-8 text");
        assert_eq!((report.objects.len(), report.unread.len(), report.exit_status()), (1, 3, 2));
    }

    #[test]
    fn objects_that_cannot_be_beside_each_other_are_refused() {
        let pool = |name: &str, cidr: &str| {
            format!(
                "---\napiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{name: {name}}}\nspec: {{cidr: {cidr}}}\n"
            )
        };
        let report = report(&(pool("a", "10.0.0.0/16") + &pool("b", "10.0.1.0/24")));
        assert_eq!(report.to_json()["objects"][1]["errors"][0]["field"], "spec.cidr");
        assert!(report.objects[0].errors.is_empty());
    }

    #[test]
    fn names_cannot_control_the_terminal() {
        let report = report("{apiVersion: v1, kind: Namespace, metadata: {name: \"\\e[31m\\n\"}}");
        assert!(!report.to_table().contains('\x1b'));
        assert_eq!(report.to_table().lines().count(), 2);
    }
}
