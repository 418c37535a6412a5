//! A server to test against: in this process, or in another that can be killed.

#![allow(dead_code, reason = "each test file uses its part")]

pub mod api;
pub mod kubectl;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use caracal_apiserver::{Options, Ranges, Server, serve};
use kube::config::{KubeConfigOptions, Kubeconfig};

/// A server in this process.
pub struct Here {
    pub server: Server,
    pub dir: tempfile::TempDir,
}

impl Here {
    pub async fn start() -> Here {
        let dir = tempfile::tempdir().expect("a directory");
        let server = serve(options(dir.path(), any_port())).await.expect("a server");
        Here { server, dir }
    }

    pub fn kubeconfig(&self) -> PathBuf {
        kubeconfig(self.dir.path())
    }

    pub async fn client(&self) -> kube::Client {
        client(&self.kubeconfig()).await
    }
}

pub fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

pub fn kubeconfig(dir: &Path) -> PathBuf {
    dir.join("kubeconfig")
}

pub fn options(dir: &Path, listen: SocketAddr) -> Options {
    Options {
        data_dir: dir.join("data"),
        listen,
        write_kubeconfig: kubeconfig(dir),
        ranges: Ranges::default(),
    }
}

pub async fn client(kubeconfig: &Path) -> kube::Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .expect("a good kubeconfig");
    // Whatever proxy the environment names.
    config.proxy_url = None;
    kube::Client::try_from(config).expect("a client")
}

/// Where a test binary that runs as a server keeps its files, and listens.
const SERVE_DIR: &str = "CARACAL_TEST_SERVE_DIR";
const SERVE_ADDRESS: &str = "CARACAL_TEST_SERVE_ADDRESS";

/// A server in a process of its own: this very test binary, running the test `the_server_that_others_kill`.
pub struct Elsewhere {
    child: Child,
    dir: PathBuf,
}

impl Elsewhere {
    /// Starts one, and returns once its kubeconfig is there.
    pub fn start(dir: &Path, listen: SocketAddr) -> Elsewhere {
        let _ = std::fs::remove_file(kubeconfig(dir));
        let program = std::env::current_exe().expect("this program");
        let child = Command::new(program)
            .args(["--exact", "the_server_that_others_kill", "--nocapture", "--quiet"])
            .env(SERVE_DIR, dir)
            .env(SERVE_ADDRESS, listen.to_string())
            .stdout(Stdio::null())
            .spawn()
            .expect("a process");
        let mut server = Elsewhere { child, dir: dir.to_owned() };
        for _ in 0..6000 {
            if kubeconfig(dir).exists() {
                return server;
            }
            if let Some(status) = server.child.try_wait().expect("a child") {
                panic!("the server ended at its start: {status}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the server did not start");
    }

    pub fn kubeconfig(&self) -> PathBuf {
        kubeconfig(&self.dir)
    }

    /// How much memory it has, in MiB.
    pub fn resident_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") >> 10
    }

    /// kill -9.
    pub fn kill(mut self) {
        self.child.kill().expect("a child");
        self.child.wait().expect("a child");
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What `the_server_that_others_kill` does: serves for ever when it was started by [`Elsewhere`], else nothing.
pub fn serve_if_told() {
    let (Ok(dir), Ok(address)) = (std::env::var(SERVE_DIR), std::env::var(SERVE_ADDRESS)) else { return };
    // It does not outlive the test that started it, however that ends.
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).expect("prctl");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let address = address.parse().expect("an address");
        let _server = serve(options(Path::new(&dir), address)).await.expect("a server");
        std::future::pending::<()>().await;
    });
}
