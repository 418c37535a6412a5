//! The objects that Caracal reads, Kubernetes' and Calico's, decoded strictly and validated as their API servers do.

use std::fmt;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde::Serialize;
use serde_json::Value;

use crate::{calico, validate};

mod decode;

pub use decode::decode_lenient;

/// The group and version of Calico's own kinds.
const CALICO_API_VERSION: &str = "projectcalico.org/v3";

/// Whether a kind's objects live in namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Cluster,
    Namespaced,
}

/// Makes [`Kind`] and [`Object`] from one table: a kind's type, and how manifests and URLs name it. The order of the rows
/// is one in which objects can be created.
macro_rules! objects {
    ($($(#[$doc:meta])* $variant:ident($type:ty) = $api_version:literal $kind:literal $plural:literal $scope:ident,)*) => {
        /// The kinds of objects.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $($(#[$doc])* $variant,)*
        }

        /// An object of one of the kinds that matter here.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Object {
            $($(#[$doc])* $variant(Box<$type>),)*
        }

        impl Kind {
            /// All of them, in an order in which they can be created.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// As manifests name it. Not unique: Kubernetes and Calico both have a NetworkPolicy.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $kind,)*
                }
            }

            /// Its API group and version, as manifests name them.
            pub fn api_version(self) -> &'static str {
                match self {
                    $(Self::$variant => $api_version,)*
                }
            }

            /// As URLs name it.
            pub fn plural(self) -> &'static str {
                match self {
                    $(Self::$variant => $plural,)*
                }
            }

            /// Whether its objects live in namespaces.
            pub fn is_namespaced(self) -> bool {
                let scope = match self {
                    $(Self::$variant => Scope::$scope,)*
                };
                scope == Scope::Namespaced
            }

            /// Whether its objects tell what has become of them; a status is an unknown field of the others.
            pub fn has_status(self) -> bool {
                let calicos = self.api_version() == CALICO_API_VERSION;
                !calicos
                    || matches!(
                        self,
                        Self::IPPool | Self::CalicoNodeStatus | Self::KubeControllersConfiguration
                    )
            }

            /// The kind that a manifest names.
            pub fn from_manifest(api_version: &str, kind: &str) -> Option<Self> {
                let known = |known: &Self| known.as_str() == kind && known.api_version() == api_version;
                Self::ALL.iter().copied().find(known)
            }
        }

        impl Object {
            /// Decodes a manifest; fields that the kind does not have are left out and returned.
            pub fn from_value_lenient(value: Value) -> Result<(Self, Vec<String>), ObjectError> {
                match kind_of(&value)? {
                    $(Kind::$variant => {
                        let (object, unknown) = decode::object::<$type>(Kind::$variant, value)?;
                        Ok((Object::$variant(Box::new(object)), unknown))
                    })*
                }
            }

            /// Decodes a manifest as far as it can be: with all that is wrong with it, and without what is wrong.
            fn from_value_mended(kind: Kind, value: Value) -> (Option<Self>, Vec<FieldError>) {
                match kind {
                    $(Kind::$variant => {
                        let (object, errors) = decode::mended::<$type>(kind, value);
                        (object.map(|object| Object::$variant(Box::new(object))), errors)
                    })*
                }
            }

            /// The manifest, with `apiVersion` and `kind`.
            pub fn to_value(&self) -> Value {
                match self {
                    $(Self::$variant(object) => encode(Kind::$variant, object),)*
                }
            }

            /// Its kind.
            pub fn kind(&self) -> Kind {
                match self {
                    $(Self::$variant(_) => Kind::$variant,)*
                }
            }

            /// Its metadata.
            pub fn metadata(&self) -> &ObjectMeta {
                match self {
                    $(Self::$variant(object) => &object.metadata,)*
                }
            }

            /// Its metadata, to be changed.
            pub fn metadata_mut(&mut self) -> &mut ObjectMeta {
                match self {
                    $(Self::$variant(object) => &mut object.metadata,)*
                }
            }
        }

        $(
            impl From<$type> for Object {
                fn from(object: $type) -> Self {
                    Self::$variant(Box::new(object))
                }
            }
        )*
    };
}

objects! {
    /// v1 Namespace.
    Namespace(Namespace) = "v1" "Namespace" "namespaces" Cluster,
    /// v1 ServiceAccount.
    ServiceAccount(ServiceAccount) = "v1" "ServiceAccount" "serviceaccounts" Namespaced,
    /// v1 Node.
    Node(Node) = "v1" "Node" "nodes" Cluster,
    /// v1 Pod.
    Pod(Pod) = "v1" "Pod" "pods" Namespaced,
    /// v1 Service.
    Service(Service) = "v1" "Service" "services" Namespaced,
    /// discovery.k8s.io/v1 EndpointSlice.
    EndpointSlice(EndpointSlice) = "discovery.k8s.io/v1" "EndpointSlice" "endpointslices" Namespaced,
    /// networking.k8s.io/v1 NetworkPolicy.
    NetworkPolicy(NetworkPolicy) = "networking.k8s.io/v1" "NetworkPolicy" "networkpolicies" Namespaced,
    /// policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy.
    ClusterNetworkPolicy(calico::ClusterNetworkPolicy) =
        "policy.networking.k8s.io/v1alpha2" "ClusterNetworkPolicy" "clusternetworkpolicies" Cluster,
    /// projectcalico.org/v3 Tier.
    Tier(calico::Tier) = "projectcalico.org/v3" "Tier" "tiers" Cluster,
    /// projectcalico.org/v3 NetworkPolicy.
    CalicoNetworkPolicy(calico::NetworkPolicy) =
        "projectcalico.org/v3" "NetworkPolicy" "networkpolicies" Namespaced,
    /// projectcalico.org/v3 GlobalNetworkPolicy.
    GlobalNetworkPolicy(calico::GlobalNetworkPolicy) =
        "projectcalico.org/v3" "GlobalNetworkPolicy" "globalnetworkpolicies" Cluster,
    /// projectcalico.org/v3 StagedNetworkPolicy.
    StagedNetworkPolicy(calico::StagedNetworkPolicy) =
        "projectcalico.org/v3" "StagedNetworkPolicy" "stagednetworkpolicies" Namespaced,
    /// projectcalico.org/v3 StagedGlobalNetworkPolicy.
    StagedGlobalNetworkPolicy(calico::StagedGlobalNetworkPolicy) =
        "projectcalico.org/v3" "StagedGlobalNetworkPolicy" "stagedglobalnetworkpolicies" Cluster,
    /// projectcalico.org/v3 StagedKubernetesNetworkPolicy.
    StagedKubernetesNetworkPolicy(calico::StagedKubernetesNetworkPolicy) =
        "projectcalico.org/v3" "StagedKubernetesNetworkPolicy" "stagedkubernetesnetworkpolicies" Namespaced,
    /// projectcalico.org/v3 NetworkSet.
    NetworkSet(calico::NetworkSet) = "projectcalico.org/v3" "NetworkSet" "networksets" Namespaced,
    /// projectcalico.org/v3 GlobalNetworkSet.
    GlobalNetworkSet(calico::GlobalNetworkSet) =
        "projectcalico.org/v3" "GlobalNetworkSet" "globalnetworksets" Cluster,
    /// projectcalico.org/v3 HostEndpoint.
    HostEndpoint(calico::HostEndpoint) = "projectcalico.org/v3" "HostEndpoint" "hostendpoints" Cluster,
    /// projectcalico.org/v3 Profile.
    Profile(calico::Profile) = "projectcalico.org/v3" "Profile" "profiles" Cluster,
    /// projectcalico.org/v3 FelixConfiguration.
    FelixConfiguration(calico::FelixConfiguration) =
        "projectcalico.org/v3" "FelixConfiguration" "felixconfigurations" Cluster,
    /// projectcalico.org/v3 IPPool.
    IPPool(calico::IPPool) =
        "projectcalico.org/v3" "IPPool" "ippools" Cluster,
    /// projectcalico.org/v3 IPReservation.
    IPReservation(calico::IPReservation) =
        "projectcalico.org/v3" "IPReservation" "ipreservations" Cluster,
    /// projectcalico.org/v3 IPAMConfiguration.
    IPAMConfiguration(calico::IPAMConfiguration) =
        "projectcalico.org/v3" "IPAMConfiguration" "ipamconfigurations" Cluster,
    /// projectcalico.org/v3 IPAMBlock.
    IPAMBlock(calico::IPAMBlock) =
        "projectcalico.org/v3" "IPAMBlock" "ipamblocks" Cluster,
    /// projectcalico.org/v3 BlockAffinity.
    BlockAffinity(calico::BlockAffinity) =
        "projectcalico.org/v3" "BlockAffinity" "blockaffinities" Cluster,
    /// projectcalico.org/v3 IPAMHandle.
    IPAMHandle(calico::IPAMHandle) =
        "projectcalico.org/v3" "IPAMHandle" "ipamhandles" Cluster,
    /// projectcalico.org/v3 BGPConfiguration.
    BGPConfiguration(calico::BGPConfiguration) =
        "projectcalico.org/v3" "BGPConfiguration" "bgpconfigurations" Cluster,
    /// projectcalico.org/v3 BGPPeer.
    BGPPeer(calico::BGPPeer) =
        "projectcalico.org/v3" "BGPPeer" "bgppeers" Cluster,
    /// projectcalico.org/v3 BGPFilter.
    BGPFilter(calico::BGPFilter) =
        "projectcalico.org/v3" "BGPFilter" "bgpfilters" Cluster,
    /// projectcalico.org/v3 CalicoNodeStatus.
    CalicoNodeStatus(calico::CalicoNodeStatus) =
        "projectcalico.org/v3" "CalicoNodeStatus" "caliconodestatuses" Cluster,
    /// projectcalico.org/v3 ClusterInformation.
    ClusterInformation(calico::ClusterInformation) =
        "projectcalico.org/v3" "ClusterInformation" "clusterinformations" Cluster,
    /// projectcalico.org/v3 KubeControllersConfiguration.
    KubeControllersConfiguration(calico::KubeControllersConfiguration) =
        "projectcalico.org/v3" "KubeControllersConfiguration" "kubecontrollersconfigurations" Cluster,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; `None` for kinds without.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl ObjectKey {
    /// The key of an object in a namespace, or of one of a kind without when `namespace` is `None`.
    pub fn new(kind: Kind, namespace: Option<&str>, name: &str) -> Self {
        Self { kind, namespace: namespace.map(str::to_owned), name: name.to_owned() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// A change to the objects of a cluster.
#[derive(Debug, Clone, PartialEq)]
pub enum Update {
    /// The object is there, or is there now with other contents.
    Upsert(Object),
    /// The object is gone.
    Delete(ObjectKey),
}

impl Update {
    /// The kind of the object.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Upsert(object) => object.kind(),
            Self::Delete(key) => key.kind,
        }
    }
}

/// Why a value is no [`Object`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// Not a map, or without `apiVersion` or `kind`.
    #[error("{field}: {message}")]
    NoKind {
        /// The field that is missing or wrong.
        field: &'static str,
        /// What is wrong with it.
        message: &'static str,
    },
    /// A kind that Caracal does not know.
    #[error("kind: {api_version} {kind} is not known here; known are {}", known_kinds())]
    UnknownKind {
        /// What the object said.
        api_version: String,
        /// What the object said.
        kind: String,
    },
    /// A value of the wrong type.
    #[error("{field}: {message}")]
    Type {
        /// Where.
        field: String,
        /// What was found and what was expected.
        message: String,
    },
    /// Fields that the kind does not have.
    #[error("{}: unknown field{}", .0.join(", "), if .0.len() == 1 { "" } else { "s" })]
    UnknownFields(Vec<String>),
}

impl ObjectError {
    /// The fields that the error is about.
    pub fn fields(&self) -> Vec<&str> {
        match self {
            Self::NoKind { field, .. } => vec![field],
            Self::UnknownKind { .. } => vec!["kind"],
            Self::Type { field, .. } => vec![field],
            Self::UnknownFields(fields) => fields.iter().map(String::as_str).collect(),
        }
    }

    /// The error as what is wrong with each field.
    pub fn field_errors(&self) -> Vec<FieldError> {
        match self {
            Self::NoKind { field, message } => vec![FieldError {
                field: (*field).to_owned(),
                reason: FieldErrorReason::Required,
                message: (*message).to_owned(),
            }],
            Self::UnknownKind { api_version, kind } => vec![FieldError {
                field: "kind".to_owned(),
                reason: FieldErrorReason::NotSupported,
                message: format!(
                    "Unsupported value: {kind:?} of {api_version:?}: supported values: {}",
                    known_kinds()
                ),
            }],
            Self::Type { field, message } => vec![FieldError::of_type(field.clone(), message)],
            Self::UnknownFields(fields) => fields.iter().cloned().map(FieldError::unknown).collect(),
        }
    }
}

/// All kinds, by their API: `v1 (Namespace, …), …`.
fn known_kinds() -> String {
    let mut by_api: Vec<(&str, Vec<&str>)> = Vec::new();
    for kind in Kind::ALL {
        match by_api.iter_mut().find(|(api, _)| *api == kind.api_version()) {
            Some((_, kinds)) => kinds.push(kind.as_str()),
            None => by_api.push((kind.api_version(), vec![kind.as_str()])),
        }
    }
    let texts: Vec<String> =
        by_api.iter().map(|(api, kinds)| format!("{api} ({})", kinds.join(", "))).collect();
    texts.join(", ")
}

/// What is wrong with one field of an object, in the words of Kubernetes' API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Which field, in Kubernetes' syntax: `spec.ingress[0].ports[0].endPort`.
    pub field: String,
    /// The kind of mistake.
    pub reason: FieldErrorReason,
    /// What is wrong, without the field's name: `Invalid value: 70000: must be between 1 and 65535, inclusive`.
    pub message: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

impl FieldError {
    /// The kind has no such field.
    pub(crate) fn unknown(field: String) -> Self {
        Self { field, reason: FieldErrorReason::Invalid, message: "unknown field".to_owned() }
    }

    /// A value is of the wrong type.
    fn of_type(field: String, message: &str) -> Self {
        Self { field, reason: FieldErrorReason::Invalid, message: format!("Invalid value: {message}") }
    }

    /// Whether `field` is this error's, or inside it.
    fn covers(&self, field: &str) -> bool {
        field.strip_prefix(&self.field).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    }
}

/// The kinds of mistakes, as the causes of a Kubernetes Status name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldErrorReason {
    /// Must be given.
    Required,
    /// Given twice.
    Duplicate,
    /// Malformed or out of range.
    Invalid,
    /// Not one of the values that there are.
    NotSupported,
    /// Must not be given, here or together with another.
    Forbidden,
}

impl FieldErrorReason {
    /// As `details.causes[].reason` of a Status says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
        }
    }
}

/// What objects of a kind may be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameFormat {
    /// An RFC 1123 subdomain.
    Subdomain,
    /// Whatever can be one segment of a URL's path.
    PathSegment,
}

/// Everything that is wrong with the metadata of an object whose kind is not among [`Kind`]s.
pub fn validate_metadata(name: NameFormat, namespaced: bool, metadata: &ObjectMeta) -> Vec<FieldError> {
    validate::metadata(name, namespaced, metadata)
}

/// Everything that is wrong with a label selector at `field`.
pub fn validate_label_selector(field: &str, selector: &LabelSelector) -> Vec<FieldError> {
    validate::label_selector(field, selector)
}

impl Object {
    /// Decodes a manifest strictly: fields that the kind does not have are an error, naming each.
    pub fn from_value(value: Value) -> Result<Self, ObjectError> {
        let (object, unknown) = Self::from_value_lenient(value)?;
        if unknown.is_empty() { Ok(object) } else { Err(ObjectError::UnknownFields(unknown)) }
    }

    /// Takes a manifest as an API server does: decodes it strictly, fills what is missing and validates it. When it is
    /// refused: everything that is wrong with it at once, also what can be said of the rest of an object of which parts
    /// cannot be decoded.
    pub fn accept(value: Value) -> Result<Self, Vec<FieldError>> {
        let kind = kind_of(&value).map_err(|error| error.field_errors())?;
        let (object, mut errors) = Self::from_value_mended(kind, value);
        let Some(mut object) = object else { return Err(errors) };
        object.set_defaults();
        // Where something could not be decoded, nothing more can be said.
        let known = |found: &FieldError| errors.iter().any(|error| error.covers(&found.field));
        let found: Vec<FieldError> = object.validate().into_iter().filter(|found| !known(found)).collect();
        errors.extend(found);
        if errors.is_empty() { Ok(object) } else { Err(errors) }
    }

    /// Which object it is. A namespaced object that names no namespace is in `default`.
    pub fn key(&self) -> ObjectKey {
        let metadata = self.metadata();
        let namespace = metadata.namespace.as_deref().unwrap_or("default");
        ObjectKey {
            kind: self.kind(),
            namespace: self.kind().is_namespaced().then(|| namespace.to_owned()),
            name: metadata.name.clone().unwrap_or_default(),
        }
    }

    /// Everything that the API server of its kind would refuse the object for; empty when it would take it.
    pub fn validate(&self) -> Vec<FieldError> {
        validate::object(self)
    }

    /// Everything for which the object may not replace `old`, its former version: what may not change.
    pub fn validate_change(&self, old: &Object) -> Vec<FieldError> {
        validate::change::replacement(old, self)
    }

    /// Everything for which the object may not come beside `others`, such as pools that it overlaps.
    pub fn validate_creation<'a>(&self, others: impl IntoIterator<Item = &'a Object>) -> Vec<FieldError> {
        validate::change::creation(self, others.into_iter())
    }

    /// Everything for which the object may not be deleted while `others` are there, such as a tier with policies.
    pub fn validate_deletion<'a>(&self, others: impl IntoIterator<Item = &'a Object>) -> Vec<FieldError> {
        validate::change::deletion(self, others.into_iter())
    }

    /// Fills what an API server fills when an object is created: the types of a policy, its tier, the protocols of
    /// ports, the block size of a pool, a Namespace's own name as a label.
    pub fn set_defaults(&mut self) {
        validate::defaults::set(self);
    }
}

/// The kind that a manifest says it is of.
pub fn kind_of(value: &Value) -> Result<Kind, ObjectError> {
    let no = |field, message| ObjectError::NoKind { field, message };
    let map =
        value.as_object().ok_or(no("(object)", "an object is a map with apiVersion, kind and metadata"))?;
    let text = |field| match map.get(field) {
        None | Some(Value::Null) => Err(no(field, "Required value")),
        Some(Value::String(text)) if !text.is_empty() => Ok(text.as_str()),
        Some(_) => Err(no(field, "must be a non-empty string")),
    };
    let (kind, api_version) = (text("kind")?, text("apiVersion")?);
    Kind::from_manifest(api_version, kind).ok_or_else(|| ObjectError::UnknownKind {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
    })
}

fn encode<T: Serialize>(kind: Kind, object: &T) -> Value {
    // Serialising these types into a Value cannot fail: their map keys are strings.
    let mut value = serde_json::to_value(object).unwrap_or_default();
    if let Some(map) = value.as_object_mut() {
        map.insert("apiVersion".to_owned(), kind.api_version().into());
        map.insert("kind".to_owned(), kind.as_str().into());
    }
    value
}
