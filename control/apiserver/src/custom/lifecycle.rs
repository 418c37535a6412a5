//! What happens to definitions after they are written: their names are judged, they are served, and when they are deleted
//! their objects go first.

use std::sync::Arc;

use serde_json::Value;

use super::names::{Verdict, status, verdict};
use super::{GROUP, PLURAL, rows, text};
use crate::App;
use crate::kinds::{NATIVE, Resource};
use crate::metadata;
use crate::namespaces;
use crate::status::ApiError;
use crate::store::{Change, CommitError, Condition, Key, Range, Stored};
use crate::table::{Source, Table};

/// Stands in a definition's metadata until its objects are gone.
const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

fn key(name: &str) -> Key {
    Key::new(format!("{PLURAL}.{GROUP}"), "", name)
}

fn is_native(definition: &Value) -> bool {
    let (group, plural) = (text(definition, "/spec/group"), text(definition, "/spec/names/plural"));
    NATIVE.iter().any(|row| row.is(group, plural))
}

fn is_established(definition: &Value) -> bool {
    let conditions = super::items(definition, "/status/conditions");
    conditions.iter().any(|one| text(one, "/type") == "Established" && text(one, "/status") == "True")
}

/// Serves what is defined, and goes on with deletions that a stop interrupted.
pub async fn start(app: &Arc<App>) -> Result<(), ApiError> {
    settle(app).await?;
    for stored in all(app)? {
        if namespaces::is_terminating(&stored.value) {
            clear(app, metadata::field(&stored.value, "name"));
        }
    }
    Ok(())
}

/// All definitions, the older first.
fn all(app: &App) -> Result<Vec<Arc<Stored>>, ApiError> {
    let range = Range { resource: format!("{PLURAL}.{GROUP}"), namespace: None };
    let mut all: Vec<Arc<Stored>> =
        app.store.list(&range, None, None)?.items.into_iter().map(|(_, stored)| stored).collect();
    all.sort_by_key(|stored| metadata::field(&stored.value, "creationTimestamp").to_owned());
    Ok(all)
}

/// Judges the definitions as they now are, and serves those that are accepted. Whoever writes one waits for this, so what
/// it defines is there when the writer has its answer.
pub async fn settle(app: &App) -> Result<(), ApiError> {
    let _turn = app.settling.lock().await;
    loop {
        let definitions = all(app)?;
        let unsettled = definitions.iter().find_map(|stored| Some((stored, settled(stored, &definitions)?)));
        let Some((stored, object)) = unsettled else {
            publish(app, &definitions);
            return Ok(());
        };
        let key = key(metadata::field(&object, "name"));
        let conditions = vec![Condition::Unchanged(key.clone(), stored.revision)];
        match app.store.commit(Change { key, conditions, value: Some(object) }).await {
            // Either way: look again.
            Ok(_) | Err(CommitError::Unmet(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A definition as it should be, if it is not.
fn settled(stored: &Stored, definitions: &[Arc<Stored>]) -> Option<Value> {
    let mut object = stored.value.clone();
    let others = definitions.iter().map(|other| &other.value);
    let others = others.filter(|other| metadata::field(other, "uid") != metadata::field(&object, "uid"));
    let verdict = verdict(&stored.value, others);
    let status = status(&object, &verdict, &metadata::now());
    object["status"] = status;
    if verdict == Verdict::Accepted && !namespaces::is_terminating(&object) {
        let finalizers = &mut object["metadata"]["finalizers"];
        if !finalizers.is_array() {
            *finalizers = Value::Array(Vec::new());
        }
        if let Some(list) = finalizers.as_array_mut().filter(|list| !list.iter().any(|one| one == FINALIZER))
        {
            list.push(FINALIZER.into());
        }
    }
    (object != stored.value).then_some(object)
}

fn publish(app: &App, definitions: &[Arc<Stored>]) {
    let served = definitions.iter().map(|stored| &stored.value);
    let served = served.filter(|definition| is_established(definition) && !is_native(definition));
    let former = app.table();
    let sources: Vec<Source> = served
        .map(|definition| {
            let what = (definition["spec"].clone(), definition["status"]["acceptedNames"].clone());
            // A row that stays the same stays: watches of it go on.
            former.source(&what).unwrap_or_else(|| {
                let rows = rows(definition).into_iter().map(Arc::new).collect();
                Source { what, rows }
            })
        })
        .collect();
    if former.is_made_of(&sources) {
        return;
    }
    app.tables.send_replace(Arc::new(Table::with(sources)));
}

/// What must hold when an object of this resource is made: its definition is there, and stays.
pub fn living(app: &App, resource: &Resource) -> Result<Option<Condition>, ApiError> {
    let Some(definition) = resource.definition() else { return Ok(None) };
    let key = key(&definition.name);
    let stored = app.store.get(&key).ok_or_else(ApiError::no_such_path)?;
    if namespaces::is_terminating(&stored.value) {
        let why = "create not allowed while custom resource definition is terminating".to_owned();
        return Err(ApiError { message: why, ..ApiError::method_not_allowed() });
    }
    Ok(Some(Condition::Unchanged(key, stored.revision)))
}

/// Deletes, in the background, the objects of a definition that is being deleted, and then the definition.
pub fn clear(app: &Arc<App>, name: &str) {
    let (shared, name) = (Arc::clone(app), name.to_owned());
    namespaces::in_background(app, name.clone(), move || {
        let (app, name) = (Arc::clone(&shared), name.clone());
        async move { sweep(&app, &name).await }
    });
}

/// Deletes what can be deleted; whether nothing is left to be done.
async fn sweep(app: &App, name: &str) -> Result<bool, ApiError> {
    let key = key(name);
    let Some(stored) = app.store.get(&key) else { return Ok(true) };
    if !namespaces::is_terminating(&stored.value) {
        return Ok(true);
    }
    let mut conditions = vec![Condition::Unchanged(key.clone(), stored.revision)];
    // The objects of what is served natively are not the definition's.
    if !is_native(&stored.value) {
        namespaces::empty(app, &Range { resource: name.to_owned(), namespace: None }).await?;
        conditions.push(Condition::ResourceEmpty(name.to_owned()));
    }
    let mut object = stored.value.clone();
    if let Some(finalizers) = object.pointer_mut("/metadata/finalizers").and_then(Value::as_array_mut) {
        finalizers.retain(|finalizer| finalizer != FINALIZER);
    }
    let value = metadata::has_finalizers(&object).then_some(object);
    match app.store.commit(Change { key, conditions, value }).await {
        Ok(_) => {
            settle(app).await?;
            Ok(true)
        }
        Err(CommitError::Unmet(_)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
