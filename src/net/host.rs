//! Which host this is.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

/// What tells this host from others, and stays the same: its machine id and its name, whichever there is. Hosts may be
/// clones with one machine id, or have one name.
pub fn host() -> &'static str {
    static HOST: OnceLock<String> = OnceLock::new();
    HOST.get_or_init(|| said(["/etc/machine-id", "/proc/sys/kernel/hostname"].map(Path::new)))
}

fn said(files: [&Path; 2]) -> String {
    files.map(|file| fs::read_to_string(file).unwrap_or_default().trim().to_owned()).join("@")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_known_by_whatever_there_is() {
        let folder = std::env::temp_dir().join(format!("warmline-host-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let (id, name) = (folder.join("machine-id"), folder.join("hostname"));
        fs::write(&name, "web-7\n").unwrap();
        assert_eq!(said([&id, &name]), "@web-7");
        fs::write(&id, "0123456789abcdef\n").unwrap();
        assert_eq!(said([&id, &name]), "0123456789abcdef@web-7");
        fs::remove_dir_all(&folder).unwrap();
        assert!(host().len() > 1 && host() == host(), "{}", host());
    }
}
