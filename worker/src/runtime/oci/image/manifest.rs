//! What an image says of itself, read from the layout that it was fetched into. Its author may be hostile: everything
//! is bounded and checked.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::pull::PullError;
use super::shelf::ImageId;

/// Bytes of a document at most.
const LARGEST: u64 = 4 << 20;
/// Bytes of all variables of an image at most: they stand before every command.
const MOST_VARIABLES: usize = 128 << 10;

/// What is used of an image's description.
#[derive(Debug)]
pub(super) struct Description {
    /// Names the content and the settings of the image.
    pub(super) id: ImageId,
    /// `NAME=value` each.
    pub(super) env: Vec<String>,
    /// As its author wrote it; empty for none.
    pub(super) user: String,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Pointer>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Pointer,
}

#[derive(Deserialize)]
struct Pointer {
    digest: String,
}

#[derive(Deserialize)]
struct Document {
    config: Option<Config>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    env: Option<Vec<String>>,
    user: Option<String>,
}

impl Description {
    /// Reads the only image of a layout.
    pub(super) fn read(layout: &Path) -> Result<Self, PullError> {
        let index: Index = document(&layout.join("index.json"))?;
        let manifest = index
            .manifests
            .first()
            .ok_or_else(|| PullError::refused("it is empty"))?;
        let manifest: Manifest = document(&blob(layout, &manifest.digest)?)?;
        let id = id_of(&manifest.config.digest)?;
        let document: Document = document(&blob(layout, &manifest.config.digest)?)?;
        let config = document.config;
        let (env, user) = config.map_or((None, None), |config| (config.env, config.user));
        let env = env.unwrap_or_default();
        let fit = env.iter().all(|variable| !variable.contains('\0'))
            && env.iter().map(String::len).sum::<usize>() <= MOST_VARIABLES;
        if !fit {
            return Err(PullError::refused(format!(
                "its variables are more than {MOST_VARIABLES} bytes, or hold NUL"
            )));
        }
        Ok(Self {
            id,
            env: env.into_iter().filter(|text| is_variable(text)).collect(),
            user: user.unwrap_or_default(),
        })
    }
}

fn is_variable(text: &str) -> bool {
    text.split_once('=')
        .is_some_and(|(name, _)| !name.is_empty())
}

fn id_of(digest: &str) -> Result<ImageId, PullError> {
    ImageId::new(digest)
        .ok_or_else(|| PullError::refused(format!("{digest:?} is no SHA-256 digest")))
}

fn blob(layout: &Path, digest: &str) -> Result<std::path::PathBuf, PullError> {
    let id = id_of(digest)?;
    Ok(layout.join("blobs/sha256").join(id.hex()))
}

fn document<T: DeserializeOwned>(path: &Path) -> Result<T, PullError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LARGEST).read_to_end(&mut bytes))
        .map_err(PullError::Here)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| PullError::refused(format!("its description cannot be read: {error}")))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::{Value, json};

    use super::*;

    /// A layout whose configuration is this.
    fn described(config: &Value) -> Result<Description, PullError> {
        let folder = tempfile::tempdir().expect("a folder");
        let blobs = folder.path().join("blobs/sha256");
        fs::create_dir_all(&blobs).expect("made");
        let (manifest, id) = ("a".repeat(64), "b".repeat(64));
        let write = |path: &Path, value: &Value| fs::write(path, value.to_string());
        let digest = |hex: &str| json!({"digest": format!("sha256:{hex}")});
        let index = json!({"manifests": [digest(&manifest)]});
        write(&folder.path().join("index.json"), &index).expect("written");
        let content = json!({"config": digest(&id)});
        write(&blobs.join(&manifest), &content).expect("written");
        write(&blobs.join(&id), config).expect("written");
        Description::read(folder.path())
    }

    #[test]
    fn env_and_user_are_read() {
        let found = described(&json!({
            "architecture": "amd64",
            "config": {"Env": ["A=b=c", "bare", "=x"], "User": "app:staff", "Cmd": ["x"]},
        }))
        .expect("an image");
        assert_eq!(found.env, ["A=b=c"]);
        assert_eq!(found.user, "app:staff");
        assert_eq!(found.id.hex(), "b".repeat(64));
        let bare = described(&json!({})).expect("an image");
        assert_eq!((bare.env.len(), bare.user.as_str()), (0, ""));
    }

    #[test]
    fn what_is_too_large_or_makes_no_sense_is_refused() {
        for bad in [
            json!({"config": {"Env": ["A=\0"]}}),
            json!({"config": {"Env": [format!("A={}", "x".repeat(MOST_VARIABLES))]}}),
            json!({"config": {"Env": "A=b"}}),
            json!([1]),
        ] {
            let answer = described(&bad);
            assert!(matches!(answer, Err(PullError::Refused(_))), "{answer:?}");
        }
        assert!(ImageId::new("sha256:../../x").is_none());
    }
}
