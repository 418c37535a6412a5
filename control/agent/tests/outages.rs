//! An agent whose way to the API server goes wrong: it keeps what it knows, and catches up.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, helpers included"
)]

mod plane;
mod proxy;
mod running;
mod world;

use std::path::PathBuf;
use std::time::Duration;

use caracal_agent::node::{Config, Settings};
use caracal_agent::{Agent, HostServices};
use caracal_datastore::{ApiGroup, Datastore, client};
use caracal_model::calico::custom_resource_definitions;
use caracal_model::object::{Kind, Object};
use kube::Api;
use kube::api::PostParams;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use plane::Plane;
use proxy::{Proxy, Weather};
use running::Running;
use serde_json::{Value, json};
use world::World;

/// Against hanging only.
const PATIENCE: Duration = Duration::from_secs(60);
const TOKEN: &str = "first";

/// A cluster behind a proxy, with an agent and its fastpath.
struct Setup {
    // Goes before the folder that its socket is in.
    fastpath: Plane,
    world: World,
    proxy: Proxy,
    agent: Running,
}

impl Setup {
    async fn new(weather: Weather) -> Self {
        Self::with(weather, None).await
    }

    /// With an agent that starts its node by this environment, if any.
    async fn with(weather: Weather, environment: Option<&[(&str, &str)]>) -> Self {
        Self::of(World::new().await, weather, environment).await
    }

    async fn of(world: World, weather: Weather, environment: Option<&[(&str, &str)]>) -> Self {
        match environment {
            None => {
                world.node("node1", 1).await;
                world.pod("old", "node1", "10.244.1.2").await;
            }
            Some(_) => {
                create(
                    &world,
                    ApiGroup::V3,
                    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1"}}),
                )
                .await
            }
        }
        let proxy = Proxy::start(world.client().await, weather).await;
        let kubeconfig = path(&world, "proxied");
        proxy.write_kubeconfig(&kubeconfig, TOKEN);
        let socket = path(&world, "fastpath.sock");
        let fastpath = Plane::start(&socket, 1);
        let client = client(Some(&kubeconfig)).await.unwrap();
        let mut agent = Agent::new("node1".into(), HostServices::Replace, &client, socket, None);
        if let Some(environment) = environment {
            let find = |key: &str| {
                environment.iter().find(|(name, _)| *name == key).map(|(_, value)| (*value).to_owned())
            };
            agent = agent.with_start(Config {
                settings: Settings::read(find).unwrap(),
                nodename_file: path(&world, "nodename"),
                marks_down: true,
            });
        }
        Self { world, proxy, fastpath, agent: Running::start(agent) }
    }

    fn has(&self, what: &'static str) {
        self.fastpath.wait(what, |told| told.in_sync && told.has(what));
    }

    /// Nothing has been taken away but what is named, and the agent has never lost its fastpath.
    async fn ends(self, removed: &[&str]) {
        self.fastpath.with(|told| {
            assert_eq!(told.removed, removed.iter().map(|name| (*name).to_owned()).collect());
            assert_eq!(told.hellos, 1);
        });
        self.agent.stop().await;
    }
}

fn path(world: &World, name: &str) -> PathBuf {
    world.kubeconfig().with_file_name(name)
}

async fn create(world: &World, group: ApiGroup, value: Value) {
    let datastore = Datastore::new(world.client().await, group);
    datastore.create(&Object::from_value_lenient(value).unwrap().0).await.unwrap();
}

/// Lets the agent meet it, again and again; more often with `CARACAL_LONG=1`.
async fn for_a_while(proxy: &Proxy) {
    let times = if std::env::var_os("CARACAL_LONG").is_some() { 30 } else { 10 };
    let before = proxy.requests();
    let end = tokio::time::Instant::now() + PATIENCE;
    while proxy.requests() < before + times {
        assert!(tokio::time::Instant::now() < end, "the agent has stopped trying");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_the_server_answers_nothing_is_lost_and_what_happened_is_seen_afterwards() {
    let setup = Setup::new(Weather::default()).await;
    setup.has("endpoint default/old");
    for (number, code) in [(3, 500), (4, 503), (5, 429), (6, 401), (7, 403), (8, 404), (9, 410)] {
        setup.proxy.becomes(|weather| weather.refuses = Some(code));
        let name = format!("pod{number}");
        setup.world.pod(&name, "node1", &format!("10.244.1.{number}")).await;
        for_a_while(&setup.proxy).await;
        assert!(!setup.fastpath.with(|told| told.has(&format!("endpoint default/{name}"))));
        setup.proxy.becomes(|weather| weather.refuses = None);
        setup.fastpath.wait("the pod", |told| told.has(&format!("endpoint default/{name}")));
        setup.has("endpoint default/old");
    }
    setup.ends(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_storm_of_forgotten_versions_is_weathered() {
    let setup = Setup::new(Weather::default()).await;
    setup.has("endpoint default/old");
    // Every watch ends at once with 410, so everything is listed over and over; then lists fail, too.
    setup.proxy.becomes(|weather| weather.watches_begin_with = Some(410));
    setup.world.pod("listed", "node1", "10.244.1.3").await;
    setup.has("endpoint default/listed");
    setup.world.delete_pod("listed").await;
    setup.fastpath.wait("its end", |told| !told.has("endpoint default/listed"));
    setup.proxy.becomes(|weather| weather.lists_get = Some(410));
    setup.world.pod("new", "node1", "10.244.1.4").await;
    for_a_while(&setup.proxy).await;
    setup.proxy.becomes(|weather| *weather = Weather { cut: weather.cut, ..Weather::default() });
    setup.has("endpoint default/new");
    setup.has("endpoint default/old");
    setup.ends(&["endpoint default/listed"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn watches_that_break_all_the_time_lose_no_change() {
    let setup = Setup::new(Weather::default()).await;
    setup.has("endpoint default/old");
    for number in 10..40 {
        setup.proxy.becomes(|_| {});
        setup.world.pod(&format!("pod{number}"), "node1", &format!("10.244.1.{number}")).await;
    }
    for number in 10..40 {
        setup.fastpath.wait("each pod", |told| told.has(&format!("endpoint default/pod{number}")));
    }
    setup.ends(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn credentials_that_expire_are_read_again() {
    let weather = Weather { token: Some(TOKEN.into()), ..Weather::default() };
    let setup = Setup::new(weather).await;
    setup.has("endpoint default/old");
    for round in 3..6 {
        let token = format!("token{round}");
        setup.proxy.becomes(|weather| weather.token = Some(token.clone()));
        setup.world.pod(&token, "node1", &format!("10.244.1.{round}")).await;
        for_a_while(&setup.proxy).await;
        assert!(!setup.fastpath.with(|told| told.has(&format!("endpoint default/{token}"))));
        setup.proxy.write_kubeconfig(&path(&setup.world, "proxied"), &token);
        setup.fastpath.wait("the pod", |told| told.has(&format!("endpoint default/{token}")));
    }
    setup.ends(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_slow_server_is_waited_for() {
    let weather = Weather { delay: Duration::from_millis(300), ..Weather::default() };
    let environment = [("IP", "192.0.2.5/24")];
    let setup = Setup::with(weather, Some(&environment)).await;
    setup.has("node");
    setup.world.pod("web", "node1", "192.168.0.2").await;
    setup.has("endpoint default/web");
    setup.ends(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_start_in_bad_weather_is_made_in_the_end() {
    let environment = [("IP", "192.0.2.5/24")];
    let setup = Setup::with(Weather { refuses: Some(500), ..Weather::default() }, Some(&environment)).await;
    for code in [500, 401, 429, 403, 410] {
        setup.proxy.becomes(|weather| weather.refuses = Some(code));
        for_a_while(&setup.proxy).await;
        // A gap, in which a part may be done.
        setup.proxy.becomes(|weather| weather.refuses = None);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    setup.has("node");
    let datastore = Datastore::new(setup.world.client().await, ApiGroup::V3);
    let end = tokio::time::Instant::now() + PATIENCE;
    while datastore.list(Kind::IPAMHandle).await.unwrap().is_empty() {
        assert!(tokio::time::Instant::now() < end, "the tunnel address");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(datastore.list(Kind::ClusterInformation).await.unwrap().len(), 1);
    assert_eq!(datastore.list(Kind::IPAMHandle).await.unwrap().len(), 1);
    setup.ends(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_that_does_not_know_calico_is_followed_and_calico_found_when_it_comes() {
    let weather = Weather {
        hides: vec!["/apis/projectcalico.org", "/apis/crd.projectcalico.org"],
        ..Weather::default()
    };
    let setup = Setup::new(weather).await;
    setup.has("endpoint default/old");
    let policy = json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": {"name": "all"},
        "spec": {"selector": "all()", "types": ["Ingress"]}});
    create(&setup.world, ApiGroup::V3, policy).await;
    for_a_while(&setup.proxy).await;
    assert!(!setup.fastpath.with(|told| told.has("policy /all")));
    setup.proxy.becomes(|weather| weather.hides.clear());
    setup.has("policy /all");
    setup.ends(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_starts_on_the_data_that_stock_calico_keeps() {
    let world = World::new().await;
    let definitions: Api<DynamicObject> = Api::all_with(
        world.client().await,
        &ApiResource::from_gvk(&GroupVersionKind::gvk(
            "apiextensions.k8s.io",
            "v1",
            "CustomResourceDefinition",
        )),
    );
    for definition in custom_resource_definitions("crd.projectcalico.org") {
        let definition = serde_json::from_value(definition).unwrap();
        definitions.create(&PostParams::default(), &definition).await.unwrap();
    }
    // An aggregated API server before that data, which is away as it likes.
    let weather = Weather { away: vec!["/apis/projectcalico.org"], ..Weather::default() };
    let setup = Setup::of(world, weather, Some(&[("IP", "192.0.2.5/24")])).await;
    let datastore = Datastore::new(setup.world.client().await, ApiGroup::Crd);
    let end = tokio::time::Instant::now() + PATIENCE;
    while datastore.list(Kind::IPAMHandle).await.unwrap().is_empty() {
        assert!(tokio::time::Instant::now() < end, "the tunnel address");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for (kind, name) in [
        (Kind::ClusterInformation, "default"),
        (Kind::FelixConfiguration, "default"),
        (Kind::Tier, "kube-admin"),
        (Kind::IPPool, "default-ipv4-ippool"),
        (Kind::BlockAffinity, "node1-192-168-"),
    ] {
        let there = datastore.list(kind).await.unwrap();
        assert!(there.iter().any(|object| object.key().name.starts_with(name)), "{kind}: {there:?}");
    }
    let policy = json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": {"name": "all"},
        "spec": {"selector": "all()", "types": ["Ingress"]}});
    create(&setup.world, ApiGroup::Crd, policy).await;
    setup.world.pod("web", "node1", "192.168.0.2").await;
    setup.has("policy /all");
    setup.has("endpoint default/web");
    setup.ends(&[]).await;
}
