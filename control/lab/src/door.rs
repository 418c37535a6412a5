//! The door to the API server in a node's loopback: whoever connects to the API server's address inside a node's namespace reaches it,
//! though it listens outside. So agents use the very kubeconfig that the API server wrote, nodes have no second network that a data plane
//! could be confused by, and the API server stays on loopback.

use std::{io, net::SocketAddr};

use caracal_cni::netns;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Handle,
};

use crate::{error::LabError, name::LabName};

/// Opens the door in a node's namespace.
pub(crate) fn open(
    runtime: &Handle,
    name: &LabName,
    node: &str,
    address: SocketAddr,
) -> Result<(), LabError> {
    let fail = |source| LabError::Listen { place: format!("node {node}"), what: address.to_string(), source };
    let listen = || -> io::Result<std::net::TcpListener> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    let listener = netns::within(&netns::path(&name.node(node)), listen)?.map_err(fail)?;
    let _inside = runtime.enter();
    let listener = TcpListener::from_std(listener).map_err(fail)?;
    runtime.spawn(async move {
        loop {
            // An error here is the connection's, or a shortage that passes.
            let Ok((mut inner, _)) = listener.accept().await else { continue };
            tokio::spawn(async move {
                // The API server is down: the agent is told by the close and comes again.
                if let Ok(mut outer) = TcpStream::connect(address).await {
                    let _ = tokio::io::copy_bidirectional(&mut inner, &mut outer).await;
                }
            });
        }
    });
    Ok(())
}
