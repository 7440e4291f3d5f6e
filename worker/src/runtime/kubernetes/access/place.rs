//! From settings to where the API server is.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Uri;
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::AccessError;

const PEM_BEGINS: &str = "-----BEGIN";

/// A control plane at an address, with an authority of its own.
pub(super) fn at_endpoint(endpoint: &str, authority: Option<&str>) -> Result<Config, AccessError> {
    let authority = authority.ok_or_else(|| AccessError::Setting {
        key: "runtime.cluster_ca",
        why: "missing: runtime.cluster_endpoint needs the cluster's certificate authority"
            .to_owned(),
    })?;
    let mut config = Config::new(address(endpoint)?);
    config.root_cert = Some(certificates(authority)?);
    Ok(config)
}

/// What kubeconfig files say, or else what is found: the pod's own account, then the user's kubeconfig.
pub(super) async fn found(kubeconfig: Option<&Path>) -> Result<Config, AccessError> {
    let failed = |error: &dyn std::fmt::Display| AccessError::NoCluster(error.to_string());
    let options = KubeConfigOptions::default();
    let wrong = |why: String| AccessError::Setting {
        key: "runtime.kubeconfig",
        why,
    };
    let file = match kubeconfig {
        Some(paths) => merged(paths).map_err(wrong)?,
        None => match Config::incluster() {
            Ok(config) => return Ok(config),
            Err(no_pod) => Kubeconfig::read()
                .map_err(|no_file| failed(&format!("not in a pod ({no_pod}), and {no_file}")))?,
        },
    };
    if let Some(proxy) = proxy_of(&file) {
        return Err(wrong(format!(
            "the cluster is behind the proxy {proxy} (proxy-url), which this service cannot use: name a file without it"
        )));
    }
    Config::from_custom_kubeconfig(file, &options)
        .await
        .map_err(|error| failed(&error))
}

/// The proxy that a kubeconfig names for the cluster of its current context.
fn proxy_of(file: &Kubeconfig) -> Option<&str> {
    let context = file.current_context.as_ref()?;
    let context = file.contexts.iter().find(|named| named.name == *context)?;
    let cluster = &context.context.as_ref()?.cluster;
    let cluster = file.clusters.iter().find(|named| named.name == *cluster)?;
    let proxy = cluster.cluster.as_ref()?.proxy_url.as_deref()?;
    (!proxy.is_empty()).then_some(proxy)
}

fn merged(paths: &Path) -> Result<Kubeconfig, String> {
    let mut merged: Option<Kubeconfig> = None;
    for path in std::env::split_paths(paths).filter(|path| !path.as_os_str().is_empty()) {
        let next =
            Kubeconfig::read_from(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        merged = Some(match merged {
            Some(first) => first.merge(next).map_err(|error| error.to_string())?,
            None => next,
        });
    }
    merged.ok_or_else(|| "names no file".to_owned())
}

fn address(endpoint: &str) -> Result<Uri, AccessError> {
    let wrong = |why: String| AccessError::Setting {
        key: "runtime.cluster_endpoint",
        why,
    };
    let endpoint = endpoint.trim();
    let text = match endpoint.split_once("://") {
        None => format!("https://{endpoint}"),
        Some(("https", _)) => endpoint.to_owned(),
        Some(_) => {
            return Err(wrong(
                "must be https: an access token goes there".to_owned(),
            ));
        }
    };
    let uri: Uri = text
        .parse()
        .map_err(|error| wrong(format!("{endpoint:?} is no address: {error}")))?;
    match uri.host() {
        Some(host) if !host.is_empty() => Ok(uri),
        _ => Err(wrong(format!("{endpoint:?} names no host"))),
    }
}

/// DER certificates of a PEM text or of its base64.
fn certificates(authority: &str) -> Result<Vec<Vec<u8>>, AccessError> {
    let wrong = |why: String| AccessError::Setting {
        key: "runtime.cluster_ca",
        why: format!("{why}; give the PEM of the cluster's certificate authority, or its base64"),
    };
    let pem = if authority.contains(PEM_BEGINS) {
        authority.as_bytes().to_vec()
    } else {
        let packed: String = authority.split_whitespace().collect();
        STANDARD
            .decode(packed)
            .map_err(|error| wrong(format!("neither PEM nor base64: {error}")))?
    };
    let certificates: Vec<Vec<u8>> = CertificateDer::pem_slice_iter(&pem)
        .map(|certificate| certificate.map(|certificate| certificate.to_vec()))
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(format!("no certificate can be read: {error}")))?;
    if certificates.is_empty() {
        return Err(wrong("there is no certificate in it".to_owned()));
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that frame like a certificate; nothing here looks inside.
    const PEM: &str = "-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n";

    #[test]
    fn an_authority_is_pem_or_its_base64() {
        let packed = STANDARD.encode(PEM);
        let (half, rest) = packed.split_at(20);
        for given in [PEM, &packed, &format!(" {half}\n{rest}\n")] {
            assert_eq!(certificates(given).unwrap(), [[1, 2, 3]], "{given}");
        }
        assert_eq!(certificates(&format!("{PEM}{PEM}")).unwrap().len(), 2);
        for wrong in ["", "?", "AQID", "-----BEGIN CERTIFICATE-----\nAQID"] {
            let error = certificates(wrong).unwrap_err().to_string();
            assert!(error.starts_with("runtime.cluster_ca: "), "{error}");
            assert!(error.contains("give the PEM"), "{error}");
        }
    }

    #[test]
    fn an_endpoint_needs_no_scheme_and_is_never_in_clear() {
        for (given, uri) in [
            ("203.0.113.7", "https://203.0.113.7/"),
            ("https://gke.example", "https://gke.example/"),
            (" gke.example:8443 ", "https://gke.example:8443/"),
        ] {
            assert_eq!(address(given).unwrap().to_string(), uri, "{given}");
        }
        for wrong in ["http://gke.example", "", "https://", "a b"] {
            let error = address(wrong).unwrap_err().to_string();
            assert!(error.starts_with("runtime.cluster_endpoint: "), "{error}");
        }
        let error = at_endpoint("gke.example", None).unwrap_err().to_string();
        assert!(error.contains("runtime.cluster_ca"), "{error}");
    }

    #[tokio::test]
    async fn a_proxy_is_refused_rather_than_passed_by() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        let with = |proxy: &str| {
            let text = format!(
                "{{clusters: [{{name: a, cluster: {{server: 'https://192.0.2.1'{proxy}}}}}], \
                 contexts: [{{name: c, context: {{cluster: a, user: u}}}}], current-context: c, \
                 users: [{{name: u, user: {{}}}}]}}"
            );
            std::fs::write(&path, text).unwrap();
        };
        with(", proxy-url: 'http://192.0.2.2:3128'");
        let error = found(Some(&path)).await.unwrap_err().to_string();
        assert!(error.starts_with("runtime.kubeconfig: "), "{error}");
        assert!(error.contains("http://192.0.2.2:3128"), "{error}");
        with("");
        found(Some(&path)).await.unwrap();
    }

    #[tokio::test]
    async fn a_kubeconfig_that_is_missing_is_named() {
        let error = found(Some(Path::new("/nowhere/config"))).await.unwrap_err();
        assert!(error.to_string().contains("/nowhere/config"), "{error}");
    }
}
