//! What Kubernetes' controllers do for namespaces: the initial ones exist, each has a service account, and the content
//! of one that is deleted goes with it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::App;
use crate::admission;
use crate::kinds::{self, NATIVE, Resource};
use crate::metadata;
use crate::status::ApiError;
use crate::store::{Change, CommitError, Condition, Key, Range};

/// Namespaces that are there from the start and stay.
pub const INITIAL: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];

/// Until what failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Where the namespace's object lives.
pub fn key(name: &str) -> Key {
    Key::new("namespaces", "", name)
}

/// The row of namespaces.
pub fn resource() -> &'static Resource {
    served("namespaces")
}

/// A row of the core group, by its plural.
fn served(plural: &str) -> &'static Resource {
    kinds::find("", "v1", plural).unwrap_or(&NATIVE[0])
}

/// Whether it is being deleted.
pub fn is_terminating(namespace: &Value) -> bool {
    !metadata::field(namespace, "deletionTimestamp").is_empty()
}

/// Makes what is missing, and goes on with deletions that a stop interrupted.
pub async fn start(app: &Arc<App>) -> Result<(), ApiError> {
    for name in INITIAL {
        make(app, resource(), &json!({ "metadata": { "name": name } }), None).await?;
    }
    let range = Range { resource: "namespaces".into(), namespace: None };
    for (key, stored) in app.store.list(&range, None, None)?.items {
        if is_terminating(&stored.value) {
            clear(app, &key.name);
        } else {
            furnish(app, &key.name).await?;
        }
    }
    Ok(())
}

/// Gives a namespace its service account.
pub async fn furnish(app: &App, namespace: &str) -> Result<(), ApiError> {
    let account = json!({ "metadata": { "name": "default", "namespace": namespace } });
    make(app, served("serviceaccounts"), &account, Some(namespace)).await
}

/// Makes an object unless it is there.
pub async fn make(
    app: &App,
    resource: &Resource,
    object: &Value,
    namespace: Option<&str>,
) -> Result<(), ApiError> {
    let validation = admission::FieldValidation::Strict;
    let mut object = admission::decode(resource, namespace, object.clone(), validation)?.object;
    admission::create(resource, &mut object)?;
    let key = Key::new(resource.qualified(), namespace.unwrap_or(""), metadata::field(&object, "name"));
    if app.store.get(&key).is_some() {
        return Ok(());
    }
    let mut conditions = vec![Condition::Absent(key.clone())];
    if let Some(namespace) = namespace {
        let namespace = self::key(namespace);
        match app.store.get(&namespace) {
            Some(stored) => conditions.push(Condition::Unchanged(namespace, stored.revision)),
            None => return Ok(()),
        }
    }
    match app.store.commit(Change { key, conditions, value: Some(object) }).await {
        // Somebody else made it, or the namespace is going.
        Ok(_) | Err(CommitError::Unmet(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Deletes, in the background, what lives in a terminating namespace, and then the namespace.
pub fn clear(app: &Arc<App>, name: &str) {
    let (shared, name) = (Arc::clone(app), name.to_owned());
    in_background(app, name.clone(), move || {
        let (app, name) = (Arc::clone(&shared), name.clone());
        async move { sweep(&app, &name).await }
    });
}

/// Sweeps until nothing is left to be done: at once, and whenever something has changed.
pub fn in_background<F, S>(app: &App, name: String, sweep: F)
where
    F: Fn() -> S + Send + 'static,
    S: Future<Output = Result<bool, ApiError>> + Send,
{
    let mut revisions = app.store.revisions();
    let mut stop = app.stop.clone();
    tokio::spawn(async move {
        loop {
            revisions.mark_unchanged();
            // After a failure, a full disk say, it is tried again.
            let mut pause = Duration::MAX;
            match sweep().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(name, error = error.message, "what it holds could not be deleted");
                    pause = RETRY;
                }
            }
            // What is left waits for its finalizers: look again when something has changed.
            tokio::select! {
                changed = revisions.changed() => if changed.is_err() { return },
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    });
}

/// Deletes what can be deleted of a range; what has finalizers is marked.
pub async fn empty(app: &App, range: &Range) -> Result<(), ApiError> {
    for (key, stored) in app.store.list(range, None, None)?.items {
        let mut value = None;
        if metadata::has_finalizers(&stored.value) {
            if !metadata::field(&stored.value, "deletionTimestamp").is_empty() {
                continue;
            }
            let mut object = stored.value.clone();
            metadata::of(&mut object).insert("deletionTimestamp".into(), metadata::now().into());
            value = Some(object);
        }
        let conditions = vec![Condition::Unchanged(key.clone(), stored.revision)];
        match app.store.commit(Change { key, conditions, value }).await {
            // One that was changed meanwhile is met again: its change wakes us.
            Ok(_) | Err(CommitError::Unmet(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Deletes what can be deleted; whether the namespace is gone.
async fn sweep(app: &App, name: &str) -> Result<bool, ApiError> {
    // Of everything that is there, also of what is no longer served.
    for resource in app.store.resources_in(name) {
        empty(app, &Range { resource, namespace: Some(name.to_owned()) }).await?;
    }
    let key = key(name);
    let Some(stored) = app.store.get(&key) else { return Ok(true) };
    if metadata::has_finalizers(&stored.value) {
        return Ok(false);
    }
    let conditions =
        vec![Condition::NamespaceEmpty(name.to_owned()), Condition::Unchanged(key.clone(), stored.revision)];
    match app.store.commit(Change { key, conditions, value: None }).await {
        Ok(_) => Ok(true),
        Err(CommitError::Unmet(_)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
