//! What goes wrong between us and the API server, by what can be done about it.

use std::time::Duration;

use kube::core::Status;

/// An error and what caused it, in one line; causes that the error's own text tells already are left out.
#[must_use]
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// Why something was not read or written. `doing` says what, of what.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DatastoreError {
    /// There is no such object, or the cluster does not serve its kind.
    #[error("{doing}: there is none")]
    NotFound {
        /// What was being done.
        doing: String,
    },
    /// There is one of this name already.
    #[error("{doing}: there is one already")]
    AlreadyExists {
        /// What was being done.
        doing: String,
    },
    /// It is no longer what the writer has read; to be read again.
    #[error("{doing}: somebody else has changed it meanwhile")]
    Conflict {
        /// What was being done.
        doing: String,
    },
    /// The version asked for is forgotten; to be listed again.
    #[error("{doing}: the API server no longer knows that version; list again")]
    Expired {
        /// What was being done.
        doing: String,
    },
    /// The credentials are not accepted, also after they were read again.
    #[error(
        "{doing}: the API server does not accept our credentials; renew the kubeconfig, or the service account's token"
    )]
    Unauthorized {
        /// What was being done.
        doing: String,
    },
    /// The role does not allow it; or an admission policy that is still being set up, which passes.
    #[error("{doing}: not allowed: {why}")]
    Forbidden {
        /// What was being done.
        doing: String,
        /// In the API server's words.
        why: String,
    },
    /// The object is refused for what it says.
    #[error("{doing}: refused: {why}")]
    Invalid {
        /// What was being done.
        doing: String,
        /// In the API server's words.
        why: String,
    },
    /// No answer, or none that says what became of it: a write may have been made.
    #[error("{doing}: {why}; try again later")]
    Unavailable {
        /// What was being done.
        doing: String,
        /// Why there is no answer.
        why: String,
    },
    /// What the API server sent is nothing that is known here.
    #[error("{doing}: what the API server sent makes no sense: {why}")]
    Undecodable {
        /// What was being done.
        doing: String,
        /// What is wrong with it.
        why: String,
    },
    /// Neither of the API groups of Calico's kinds is served.
    #[error(
        "the cluster serves neither projectcalico.org/v3 nor crd.projectcalico.org/v1: install Caracal's or Calico's custom resource definitions"
    )]
    NoCalico,
    /// Both are, and both are in use.
    #[error(
        "the cluster has Calico's data in projectcalico.org/v3 and in crd.projectcalico.org/v1, and addresses are given from one alone: set CALICO_API_GROUP (calico_api_group of the CNI configuration) to the one that counts"
    )]
    TwoGroups,
}

impl DatastoreError {
    /// Whether there is no such object.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether it may go better if it is tried again, as it is.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Unauthorized { .. } | Self::Forbidden { .. })
    }

    pub(crate) fn late(doing: String, limit: Duration) -> Self {
        Self::Unavailable { doing, why: format!("no answer within {} s", limit.as_secs()) }
    }

    pub(crate) fn of(doing: String, error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::of_status(doing, status),
            error => Self::Unavailable { doing, why: causes(error) },
        }
    }

    fn of_status(doing: String, status: &Status) -> Self {
        let why = || match status.message.as_str() {
            "" => format!("{} {}", status.code, status.reason),
            message => message.to_owned(),
        };
        match status.code {
            401 => Self::Unauthorized { doing },
            403 => Self::Forbidden { doing, why: why() },
            404 => Self::NotFound { doing },
            // Both are 409.
            _ if status.is_already_exists() => Self::AlreadyExists { doing },
            409 => Self::Conflict { doing },
            410 => Self::Expired { doing },
            429 | 500.. => Self::Unavailable { doing, why: why() },
            _ => Self::Invalid { doing, why: why() },
        }
    }
}
