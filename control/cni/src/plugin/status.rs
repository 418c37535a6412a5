//! STATUS: would ADD work?

use super::config::Config;
use super::error::PluginError;
use super::session;
use crate::node_socket::NodeSocket;

/// Asks the agent and the API server.
///
/// # Errors
/// 50: ADD would fail; 51: it would fail, and what is attached may be cut off.
pub async fn run(config: &Config) -> Result<(), PluginError> {
    let status = NodeSocket::connect(&config.node_socket).and_then(|mut agent| agent.status());
    match status {
        Err(error) => return Err(PluginError::Unavailable { limited: false, why: error.to_string() }),
        // The agent is there, and says that packets may not be forwarded.
        Ok(status) if !status.ready => {
            return Err(PluginError::Unavailable {
                limited: true,
                why: format!("this node's agent is not ready: {}", status.why),
            });
        }
        Ok(_) => {}
    }
    ipam(config).await
}

/// What `caracal-ipam` needs: the API server.
///
/// # Errors
/// 50: it cannot be asked.
pub async fn ipam(config: &Config) -> Result<(), PluginError> {
    let ready = async { session::check_ready(&session::datastore(config).await?).await };
    ready
        .await
        .map_err(|error: PluginError| PluginError::Unavailable { limited: false, why: error.to_string() })
}
