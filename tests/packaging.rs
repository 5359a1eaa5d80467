//! The files that ship beside the binary keep the promises that the code and its documentation make.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// `shutdown.drain_timeout` where the configuration does not say otherwise.
const DRAIN_SECONDS: u64 = 25;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|fault| panic!("{path}: {fault}"))
}

/// The settings of a unit file; a name that comes several times keeps all its values.
fn unit(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut settings = BTreeMap::<_, Vec<_>>::new();
    let mut section = "";
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[') {
            section = name.strip_suffix(']').expect("a section ends with a bracket");
        } else {
            let (name, value) = line.split_once('=').unwrap_or_else(|| panic!("no setting: {line}"));
            settings.entry(format!("{section}.{name}")).or_default().push(value.to_owned());
        }
    }
    settings
}

/// The instructions of a Dockerfile, continuation lines joined.
fn instructions(text: &str) -> Vec<(String, String)> {
    let text = text.replace("\\\n", " ");
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let parts = lines.map(|line| line.split_once(' ').unwrap_or_else(|| panic!("no instruction: {line}")));
    parts.map(|(name, rest)| (name.to_owned(), rest.trim().to_owned())).collect()
}

#[test]
fn the_unit_waits_for_readiness_and_for_the_drain() {
    let unit = unit(&read("systemd/warmline.service"));
    let is = |name: &str, value: &str| assert_eq!(unit[name], [value], "{name}");
    is("Service.Type", "notify");
    is("Service.NotifyAccess", "main");
    is("Service.ExecStart", "/usr/bin/warmline run --config /etc/warmline/warmline.toml");
    is("Service.ExecReload", "/bin/kill -HUP $MAINPID");
    is("Service.Restart", "on-failure");
    is("Service.RuntimeDirectory", "warmline");
    let stop = &unit["Service.TimeoutStopSec"][0];
    let stop: u64 = stop.strip_suffix('s').and_then(|s| s.parse().ok()).expect("whole seconds");
    assert!(stop > DRAIN_SECONDS, "{stop}");
    let hopeless: Vec<_> = unit["Service.RestartPreventExitStatus"][0].split(' ').collect();
    assert_eq!(hopeless, ["64", "77", "78"]);
}

#[test]
fn the_unit_leaves_what_warmline_needs() {
    let unit = unit(&read("systemd/warmline.service"));
    let families: Vec<_> = unit["Service.RestrictAddressFamilies"][0].split(' ').collect();
    assert_eq!(families, ["AF_INET", "AF_INET6", "AF_UNIX"]);
    assert!(!unit.contains_key("Service.PrivateUsers"), "access.uids compares real user ids");
    assert!(!unit.contains_key("Service.PrivateNetwork"));
    let fds: u64 = unit["Service.LimitNOFILE"][0].parse().expect("a number");
    assert!(fds >= 65_536);
}

#[test]
#[cfg_attr(not(feature = "peers"), ignore = "needs systemd-analyze; tests/run runs it")]
fn the_unit_is_hardened() {
    let mut analyze = std::process::Command::new("systemd-analyze");
    analyze.args(["security", "--offline=true", "--threshold=12", "systemd/warmline.service"]);
    let output = analyze.current_dir(root()).output().expect("systemd-analyze runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("Overall exposure level"), "{text}");
    // An unknown or misspelt setting is only a warning.
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn the_image_is_built_locked_and_runs_without_root() {
    let all = instructions(&read("Dockerfile"));
    let stages: Vec<_> = all.iter().filter(|(name, _)| name == "FROM").collect();
    assert_eq!(stages.len(), 2, "{stages:?}");
    let last = all.iter().rposition(|(name, _)| name == "FROM").expect("a stage");
    let (build, image) = all.split_at(last);
    assert!(
        build.iter().any(|(name, rest)| name == "RUN" && rest.contains("cargo build --release --locked"))
    );

    let of = |wanted: &str| {
        let found: Vec<_> = image.iter().filter(|(name, _)| name == wanted).map(|(_, rest)| rest).collect();
        assert_eq!(found.len(), 1, "{wanted}: {found:?}");
        found[0].as_str()
    };
    let user: u32 = of("USER").split(':').next().and_then(|id| id.parse().ok()).expect("a user id");
    assert!(user > 0);
    assert!(of("HEALTHCHECK").ends_with(r#"CMD ["warmline", "healthcheck"]"#));
    assert_eq!(of("STOPSIGNAL"), "SIGTERM");
    assert_eq!(of("ENTRYPOINT"), r#"["warmline"]"#);
    assert_eq!(of("CMD"), r#"["run", "--config", "/etc/warmline/warmline.toml"]"#);
    let user_at = image.iter().position(|(name, _)| name == "USER");
    let last_run = image.iter().rposition(|(name, _)| name == "RUN");
    assert!(user_at > last_run, "everything that needs root comes first");
}

#[test]
fn the_image_is_built_from_files_that_exist_and_are_sent() {
    let ignored = read(".dockerignore");
    let sent: Vec<_> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    assert!(ignored.lines().any(|line| line == "*"), "nothing is sent that is not named");
    let mut copied = 0;
    for (_, rest) in instructions(&read("Dockerfile")).iter().filter(|(name, _)| name == "COPY") {
        let words: Vec<_> = rest.split_whitespace().collect();
        if words[0].starts_with("--from=") {
            continue;
        }
        for source in &words[..words.len() - 1] {
            assert!(root().join(source).exists(), "{source}");
            assert!(sent.iter().any(|path| Path::new(source).starts_with(path)), "{source} is not sent");
            copied += 1;
        }
    }
    assert!(copied >= 4, "{copied}");
}

#[test]
fn both_licences_are_here_and_named() {
    assert!(read("Cargo.toml").contains("\nlicense = \"Apache-2.0 OR MIT\"\n"));
    let apache = read("LICENSE-APACHE");
    assert!(apache.contains("Apache License\n                           Version 2.0, January 2004"));
    assert!(apache.contains("END OF TERMS AND CONDITIONS"));
    assert!(read("LICENSE-MIT").starts_with("MIT License\n\nCopyright (c) "));
}

#[test]
fn the_changelog_knows_this_version() {
    let changelog = read("CHANGELOG.md");
    let version = env!("CARGO_PKG_VERSION");
    let mut headings = changelog.lines().filter_map(|line| line.strip_prefix("## "));
    assert_eq!(headings.next(), Some("[Unreleased]"));
    let released = headings.next();
    assert!(released.is_none_or(|h| h.starts_with(&format!("[{version}] - "))), "{released:?}");
    for heading in changelog.lines().filter_map(|line| line.strip_prefix("### ")) {
        let known = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"];
        assert!(known.contains(&heading), "{heading}");
    }
}
