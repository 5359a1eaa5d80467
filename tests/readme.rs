//! Holds the README to the truth: its configurations can be checked, its reference is complete, its recipes
//! do what it says.
//!
//! A recipe is a section whose code blocks stand below their file names.
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::{Folder, becomes, in_own_network};

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|fault| panic!("{}: {fault}", path.display()))
}

fn warmline() -> PathBuf {
    assert_cmd::cargo::cargo_bin("warmline")
}

/// What `warmline` prints with these arguments; it must succeed.
fn printed(args: &[&str]) -> String {
    let output = assert_cmd::Command::new(warmline()).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A code block: the line above it, its language, its text.
#[derive(Debug)]
struct Block {
    above: String,
    language: String,
    text: String,
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let (mut open, mut above) = (None::<Block>, "");
    for line in text.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(language), None) => {
                open = Some(Block { above: above.into(), language: language.into(), text: String::new() });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => block.text.extend([line, "\n"]),
            (None, None) => above = line,
        }
    }
    assert!(open.is_none(), "a code block without an end");
    blocks
}

/// The part under `heading`, up to the next one.
fn section<'a>(readme: &'a str, heading: &str) -> &'a str {
    let start = readme.find(&format!("{heading}\n")).unwrap_or_else(|| panic!("no heading {heading}"));
    let text = &readme[start + heading.len()..];
    &text[..text.find("\n##").unwrap_or(text.len())]
}

/// The rows of the table under `heading`: the keys of its first cell, with its second cell.
fn rows(readme: &str, heading: &str) -> Vec<(String, String)> {
    let rows = section(readme, heading).lines().filter(|line| line.starts_with("| `"));
    let keys = rows.flat_map(|row| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let names: Vec<_> = cells[1].split('`').skip(1).step_by(2).map(str::to_owned).collect();
        names.into_iter().map(move |name| (name, cells[2].to_owned()))
    });
    keys.collect()
}

/// The tables of a configuration by the names of their structs: each with its keys.
fn tables() -> BTreeMap<String, BTreeSet<String>> {
    let source = read("src/config/file.rs");
    let body = source.split_once("\ntables! {\n").unwrap().1.split_once("\n}\n").unwrap().0;
    let mut tables = BTreeMap::<_, BTreeSet<_>>::new();
    let mut table = String::new();
    for line in body.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
        if let Some(name) = line.strip_suffix(" {") {
            name.clone_into(&mut table);
        } else if let Some((key, _)) = line.split_once(": ") {
            tables.entry(table.clone()).or_default().insert(key.trim_start_matches("r#").to_owned());
        }
    }
    tables
}

/// Every table of a configuration: its struct, the heading it is under, and what its keys begin with there.
const REFERENCE: &[(&str, &str, &[&str])] = &[
    ("Log", "#### The process", &["log."]),
    ("Admin", "#### The process", &["admin."]),
    ("Shutdown", "#### The process", &["shutdown."]),
    ("Limits", "#### The process", &["limits."]),
    ("Defaults", "#### The process", &["defaults."]),
    ("Upstream", "#### `[upstreams.NAME]`", &[""]),
    ("Pool", "#### `[upstreams.NAME.pool]`", &[""]),
    ("Timeouts", "#### `[upstreams.NAME.timeouts]`", &[""]),
    ("Health", "#### `[upstreams.NAME.health]`", &[""]),
    ("Ask", "#### `[upstreams.NAME.health]`", &["probe."]),
    ("Retry", "#### `[upstreams.NAME.retry]`", &[""]),
    ("Balance", "#### `[upstreams.NAME.balance]`", &[""]),
    ("Place", "#### `[upstreams.NAME.balance]`", &["key."]),
    ("Sockets", "#### `[upstreams.NAME.sockets]`", &[""]),
    ("Preamble", "#### `[upstreams.NAME.preamble]`, `[upstreams.NAME.access]`", &["preamble."]),
    ("Access", "#### `[upstreams.NAME.preamble]`, `[upstreams.NAME.access]`", &["access."]),
    ("Frame", "#### `[upstreams.NAME.protocol.frame]`", &[""]),
    ("Length", "#### Inside `frame`", &["length."]),
    ("Id", "#### Inside `frame`", &["id."]),
    ("Method", "#### Inside `frame`", &["method."]),
    ("Condition", "#### Inside `frame`", &["oneway.", "closing.", "message.", "match."]),
    ("Heartbeat", "#### Inside `frame`", &["heartbeat."]),
    ("Reply", "#### Inside `frame`", &["reply."]),
    ("Line", "#### `[upstreams.NAME.protocol.line]`", &[""]),
    ("JsonRpc", "#### `[upstreams.NAME.protocol.jsonrpc]`", &[""]),
    ("Thrift", "#### `[upstreams.NAME.protocol.thrift]`", &[""]),
];

#[test]
fn every_key_is_explained_and_no_other() {
    let readme = read("README.md");
    let tables = tables();
    let explained: BTreeSet<_> = REFERENCE.iter().map(|(table, _, _)| (*table).to_owned()).collect();
    let all: BTreeSet<_> = tables.keys().filter(|table| *table != "File").cloned().collect();
    assert_eq!(explained, all);
    let headings: BTreeSet<_> = REFERENCE.iter().map(|(_, heading, _)| *heading).collect();
    for heading in headings {
        let here = REFERENCE.iter().filter(|(_, other, _)| *other == heading);
        let expected: BTreeSet<_> = here
            .flat_map(|(table, _, prefixes)| prefixes.iter().map(move |prefix| (table, prefix)))
            .flat_map(|(table, prefix)| tables[*table].iter().map(move |key| format!("{prefix}{key}")))
            .collect();
        let found: BTreeSet<_> = rows(&readme, heading).into_iter().map(|(key, _)| key).collect();
        assert_eq!(found, expected, "{heading}");
    }
}

/// A line of the sample that gives the default of a key shows the same one as the README.
#[test]
fn the_defaults_are_those_of_the_sample() {
    let readme = read("README.md");
    let sample = read("config/warmline.toml");
    let (mut table, mut compared) = ("", 0);
    for line in sample.lines() {
        if let Some(name) = line.trim_start_matches("# ").strip_prefix('[') {
            table = name.split_once(']').unwrap().0;
        }
        let default = line.strip_prefix("# ").and_then(|line| line.split_once(" = "));
        let Some((key, rest)) = default.filter(|(key, _)| !key.contains(' ') && *key != "source") else {
            continue;
        };
        let value = rest.split(" #").next().unwrap().trim();
        let heading = match table.strip_prefix("upstreams.example") {
            Some("") => "#### `[upstreams.NAME]`".to_owned(),
            Some(".preamble" | ".access") => {
                "#### `[upstreams.NAME.preamble]`, `[upstreams.NAME.access]`".to_owned()
            }
            Some(rest) => format!("#### `[upstreams.NAME{rest}]`"),
            None => "#### The process".to_owned(),
        };
        let last = table.rsplit('.').next().unwrap();
        let names = [key.to_owned(), format!("{last}.{key}")];
        let row = rows(&readme, &heading).into_iter().find(|(name, _)| names.contains(name));
        let (_, cell) = row.unwrap_or_else(|| panic!("{table}: {key} is not in the README"));
        assert_eq!(cell, format!("`{value}`"), "{table}: {key}");
        compared += 1;
    }
    assert!(compared > 25, "{compared}");
}

#[test]
fn every_metric_is_explained() {
    let readme = read("README.md");
    let metrics = read("tests/fixtures/metrics.txt");
    let parts = ["_bucket", "_sum", "_count"];
    let sample = |line: &str| {
        let name = line.split(['{', ' ']).next().unwrap();
        parts.iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name).to_owned()
    };
    let names: BTreeSet<_> = metrics.lines().filter(|line| !line.starts_with('#')).map(sample).collect();
    assert!(names.len() > 25, "{names:?}");
    let words: BTreeSet<_> = readme.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
    let missing: Vec<_> = names.iter().filter(|name| !words.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_word_of_the_metrics_is_explained() {
    let operations = read("README.md");
    let operations = section(&operations, "## Operations");
    let metrics = read("tests/fixtures/metrics.txt");
    for label in ["outcome", "reason", "result", "state", "rung", "action"] {
        let start = format!("{label}=\"");
        let values = metrics.lines().filter_map(|line| Some(line.split_once(&start)?.1.split_once('"')?.0));
        for value in values {
            assert!(operations.contains(&format!("`{value}`")), "{label} {value}");
        }
    }
}

#[test]
fn every_configuration_can_be_checked() {
    let readme = read("README.md");
    let folder = Folder::new();
    let mut checked = 0;
    for block in blocks(&readme) {
        if block.language == "toml" && block.text.contains("[upstreams") {
            let file = folder.path().join("warmline.toml");
            fs::write(&file, &block.text).unwrap();
            printed(&["check", file.to_str().unwrap()]);
            checked += 1;
        }
    }
    assert!(checked >= 3, "{checked}");
}

#[test]
fn what_check_prints_is_what_it_prints() {
    let said = printed(&["check", concat!(env!("CARGO_MANIFEST_DIR"), "/config/warmline.toml")]);
    let (_, summary) = said.split_once('\n').unwrap();
    assert!(blocks(&read("README.md")).iter().any(|block| block.text == summary), "{summary}");
}

/// The bytes behind the README's samples of `explain`: a call, one without a reply, a ping, a call.
const CAPTURE: &[u8] = b"\0\0\0\x0a\0\0\0\x01\0hello\0\0\0\x08\0\0\0\x02\x80bye\0\0\0\x05\0\0\0\x09\x01\
    \0\0\0\x0a\0\0\0\x03\0hello";

#[test]
fn what_explain_prints_is_what_it_prints() {
    let readme = read("README.md");
    let recipe = blocks(section(&readme, "### Your own header, with ids: multiplex"));
    let config = &recipe.iter().find(|block| block.above == "`orders.toml`").unwrap().text;
    let folder = Folder::new();
    fs::write(folder.path().join("orders.toml"), config).unwrap();
    for (args, code) in [("--config orders.toml --upstream orders", 0), ("--protocol tars", 1)] {
        let mut command = assert_cmd::Command::new(warmline());
        command.arg("explain").args(args.split(' ')).current_dir(folder.path());
        let output = command.write_stdin(CAPTURE).output().unwrap();
        assert_eq!(output.status.code(), Some(code));
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(recipe.iter().any(|block| block.text == said), "{said}");
    }
}

#[test]
fn every_command_is_listed() {
    let readme = read("README.md");
    let commands = section(&readme, "### Command line, exit codes, signals");
    for line in printed(&["--help"]).lines().skip_while(|line| *line != "Commands:").skip(1) {
        let Some(command) = line.split_whitespace().next() else { break };
        let listed = command == "help" || commands.contains(&format!("| `warmline {command} "));
        assert!(listed, "{command}");
    }
}

/// A process that ends with its value.
struct Running(Child);

impl Running {
    fn start(folder: &Path, words: &[&str]) -> Self {
        let mut command = Command::new(words[0]);
        Self(
            command
                .args(&words[1..])
                .env("PATH", path())
                .current_dir(folder)
                .stdout(Stdio::null())
                .spawn()
                .unwrap(),
        )
    }
}

/// Python with the libraries that `tests/run` installs comes first.
fn path() -> OsString {
    let libraries = concat!(env!("CARGO_MANIFEST_DIR"), "/target/thrift/venv/bin");
    let all = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths([PathBuf::from(libraries)].into_iter().chain(std::env::split_paths(&all))).unwrap()
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the server, warmline and the client of the recipe under `heading`, in a network where their ports are
/// free.
fn recipe(name: &str, heading: &str, expected: &str) {
    if !in_own_network(name) {
        return;
    }
    let readme = read("README.md");
    let folder = Folder::new();
    let mut config = None;
    for block in blocks(section(&readme, heading)) {
        let Some(file) = block.above.strip_prefix('`').and_then(|file| file.strip_suffix('`')) else {
            continue;
        };
        let text = block.text.replace("/tmp/", &format!("{}/", folder.path().display()));
        fs::write(folder.path().join(file), text).unwrap();
        if block.language == "toml" {
            config = Some(file.to_owned());
        }
    }
    let config = config.expect("a configuration");
    let _server = if folder.path().join("server.go").exists() {
        let built = Command::new("go").args(["build", "server.go"]).current_dir(folder.path()).status();
        assert!(built.unwrap().success());
        Running::start(folder.path(), &["./server"])
    } else {
        Running::start(folder.path(), &["python3", "server.py"])
    };
    let warmline = warmline();
    let _warmline = Running::start(folder.path(), &[warmline.to_str().unwrap(), "run", "--config", &config]);
    let php = folder.path().join("client.php").exists();
    let client = if php { ["php", "client.php"] } else { ["python3", "client.py"] };
    // Neither is there at once: until then the client is told so.
    becomes(heading, format!("{expected}\n"), || {
        let mut command = Command::new(client[0]);
        let output = command.arg(client[1]).env("PATH", path()).current_dir(folder.path()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    });
    assert!(section(&readme, heading).contains(&format!("You see `{expected}`")));
}

#[test]
#[cfg_attr(not(feature = "peers"), ignore = "needs PHP and Python; tests/run runs it")]
fn the_recipe_for_php() {
    recipe("the_recipe_for_php", "### PHP with `fsockopen`, 4-byte length header", "HELLO 1000");
}

#[test]
#[cfg_attr(not(feature = "peers"), ignore = "needs Python; tests/run runs it")]
fn the_recipe_with_ids() {
    recipe("the_recipe_with_ids", "### Your own header, with ids: multiplex", "b'DONE'");
}

#[test]
#[cfg_attr(not(feature = "peers"), ignore = "needs PHP and Go; tests/run runs it")]
fn the_recipe_for_json_rpc() {
    recipe("the_recipe_for_json_rpc", "### JSON-RPC: PHP and Go's `net/rpc/jsonrpc`", "1001");
}

#[test]
#[cfg_attr(not(feature = "peers"), ignore = "needs PHP and Python; tests/run runs it")]
fn the_recipe_for_lines() {
    recipe("the_recipe_for_lines", "### Lines", "OK HELLO");
}

#[test]
#[cfg_attr(not(feature = "peers"), ignore = "needs Python with thriftpy2; tests/run runs it")]
fn the_recipe_for_thrift() {
    recipe("the_recipe_for_thrift", "### Thrift", "HELLO 999");
}
