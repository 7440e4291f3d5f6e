//! Where the data folder is.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::Sources;
use super::fault::{Fault, Origin};

/// The folder's name below a folder for data.
const NAME: &str = "environment-manager";

/// The data folder, absolute, and who said so: the flag, `EM_DATA_DIR`, else the place for this user's data.
pub(super) fn data_dir(sources: &Sources) -> Result<(PathBuf, Origin), Fault> {
    let (path, origin) = chosen(sources)?;
    let absolute = std::path::absolute(&path)
        .map_err(|error| Fault::of("data folder", &origin, error.to_string()))?;
    Ok((absolute, origin))
}

fn chosen(sources: &Sources) -> Result<(PathBuf, Origin), Fault> {
    let variable = |name: &str| {
        let value = sources.variables.get(OsStr::new(name))?;
        (!value.is_empty()).then(|| PathBuf::from(value))
    };
    let absolute = |name: &str| variable(name).filter(|path| path.is_absolute());
    if let Some(path) = &sources.data_dir {
        return Ok((path.clone(), Origin::Flag("--data-dir")));
    }
    if let Some(path) = variable("EM_DATA_DIR") {
        return Ok((path, Origin::Variable("EM_DATA_DIR".to_owned())));
    }
    if sources.superuser {
        return Ok((Path::new("/var/lib").join(NAME), Origin::Default));
    }
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .map(|folder| (folder.join(NAME), Origin::Default))
        .ok_or_else(|| {
            let message = "no place for it, since HOME is not set: give --data-dir or EM_DATA_DIR";
            Fault::of("data folder", &Origin::Default, message)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(sources: &Sources) -> (String, Origin) {
        let (path, origin) = data_dir(sources).expect("a place");
        (path.display().to_string(), origin)
    }

    #[test]
    fn the_flag_wins_over_the_variable_over_the_users_own_place() {
        let mut sources = Sources::default();
        assert!(data_dir(&sources).is_err());
        let set = |name: &str, value: &str, sources: &mut Sources| {
            sources.variables.insert(name.into(), value.into());
        };
        set("HOME", "/home/ada", &mut sources);
        let own = "/home/ada/.local/share/environment-manager".to_owned();
        assert_eq!(place(&sources), (own, Origin::Default));
        set("XDG_DATA_HOME", "/xdg", &mut sources);
        assert_eq!(place(&sources).0, "/xdg/environment-manager");
        sources.superuser = true;
        assert_eq!(place(&sources).0, "/var/lib/environment-manager");
        set("EM_DATA_DIR", "/data", &mut sources);
        let variable = Origin::Variable("EM_DATA_DIR".to_owned());
        assert_eq!(place(&sources), ("/data".to_owned(), variable));
        sources.data_dir = Some("relative".into());
        let (path, origin) = place(&sources);
        assert!(
            path.starts_with('/') && path.ends_with("/relative"),
            "{path}"
        );
        assert_eq!(origin, Origin::Flag("--data-dir"));
    }
}
