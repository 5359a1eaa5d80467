//! Configurations, good and bad, through the real binary; and any text at all through the library.
//!
//! A file of `fixtures/config/invalid` is refused with exactly the text beside it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use assert_cmd::Command;
use bytes::Bytes;
use proptest::prelude::*;
use warmline::config::{Plan, Source};
use warmline::connection::Idempotent;
use warmline::pool::balance::{self, Key, Policy};
use warmline::pool::health::{self, Probe};
use warmline::queue::Retry;

fn fixtures(of: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config").join(of)
}

fn warmline(directory: &Path, args: &[&str]) -> Output {
    Command::cargo_bin("warmline").unwrap().current_dir(directory).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// The names of the configurations in `directory`, in order.
fn names(directory: &Path) -> Vec<String> {
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let configs = files.filter(|path| path.extension() == Some(OsStr::new("toml")));
    let mut names: Vec<_> =
        configs.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

#[test]
fn what_is_wrong_is_said_exactly() {
    let directory = fixtures("invalid");
    let names = names(&directory);
    assert!(names.len() >= 12, "{names:?}");
    let mut different = Vec::new();
    for name in names {
        let expected = fs::read_to_string(directory.join(&name).with_extension("txt")).unwrap();
        let output = warmline(&directory, &["check", &name]);
        assert_eq!(output.status.code(), Some(78), "{name}");
        assert_eq!(text(&output.stdout), "", "{name}");
        let errors = text(&output.stderr).matches(&format!("{name}:")).count();
        let remedies = text(&output.stderr).matches("= help: ").count();
        let near = text(&output.stderr).matches("did you mean").count();
        assert_eq!(errors, remedies + near, "{}", text(&output.stderr));
        if text(&output.stderr) != expected {
            different.push(format!("{name}\n{}\ninstead of\n{expected}", text(&output.stderr)));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// Service records need a feature; without it the remedy is told. A listener never has them.
#[test]
fn service_records_are_for_builds_that_look_them_up() {
    let folder = std::env::temp_dir().join(format!("warmline-srv-{}", std::process::id()));
    fs::create_dir(&folder).unwrap();
    let check = |listen: &str| {
        let endpoints = "endpoints = \"srv:_users._tcp.internal\"\nprotocol = \"line\"\n";
        fs::write(folder.join("srv.toml"), format!("[upstreams.users]\nlisten = {listen:?}\n{endpoints}"))
            .unwrap();
        let output = warmline(&folder, &["check", "srv.toml"]);
        (output.status.code(), text(&output.stderr).to_owned())
    };
    let (code, said) = check("127.0.0.1:7600");
    if cfg!(feature = "dns") {
        assert_eq!(code, Some(0), "{said}");
    } else {
        assert_eq!(code, Some(78), "{said}");
        assert!(said.contains("srv.toml:3:13") && said.contains("build with `--features dns`"), "{said}");
    }
    let (code, said) = check("srv:_users._tcp.internal");
    assert!(code == Some(78) && said.contains("no address of this host"), "{said}");
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn what_is_wrong_is_said_to_machines() {
    let output = warmline(&fixtures("invalid"), &["check", "stall.toml", "--format", "json"]);
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(text(&output.stderr), "");
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let expected = serde_json::json!({ "ok": false, "errors": [{
        "file": "stall.toml",
        "line": 8,
        "column": 9,
        "message": "`stall` is shorter than `request`",
        "help": "a reply may take as long as `request`: write as much or more, or leave it out",
    }] });
    assert_eq!(said, expected);
}

#[test]
fn what_is_right_is_accepted() {
    let directory = fixtures("valid");
    for name in names(&directory) {
        let output = warmline(&directory, &["check", &name]);
        assert_eq!(text(&output.stderr), "", "{name}");
        assert_eq!(output.status.code(), Some(0), "{name}");
    }
}

#[test]
fn what_health_and_retry_come_to() {
    let plan = Plan::new(&Source::new("everything.toml", good())).unwrap();
    let seconds = Duration::from_secs;
    let ask = |request: &'static [u8], expect: &'static [u8]| Probe::Ask {
        request: Bytes::from_static(request),
        expect: Bytes::from_static(expect),
    };
    let methods = |names: [&'static [u8]; 2]| Idempotent::Methods(names.map(Bytes::from_static).into());

    let users = &plan.upstream("users").unwrap().pool;
    let expected = health::Settings {
        probe: ask(b"\0\0\0\x01p", b"\0\0\0\x01"),
        interval: Some(seconds(5)),
        timeout: seconds(1),
        unhealthy_after: 3,
        healthy_after: 1,
        eject_after: 5,
        eject_for: seconds(1),
    };
    assert_eq!(users.health, expected);
    assert_eq!(users.retry, Retry { attempts: 2, per_thousand: 1000 });
    assert_eq!(users.connection.idempotent, Idempotent::All);

    let exposed = &plan.upstream("exposed").unwrap().pool;
    assert_eq!(exposed.health, health::Settings { probe: Probe::Connect, unhealthy_after: 2, ..expected });
    assert_eq!(exposed.retry, Retry { attempts: 2, per_thousand: 100 });
    assert_eq!(exposed.connection.idempotent, Idempotent::None);

    let dubbo = &plan.upstream("dubbo").unwrap().pool;
    assert_eq!(dubbo.connection.idempotent, methods([b"get_user", b"get\0\0\0\0\0"]));
    let lines = &plan.upstream("lines").unwrap().pool;
    assert_eq!(lines.health.probe, ask(b"PING\r\n", b""));
    assert_eq!(lines.connection.idempotent, methods([b"GET", b"GETS"]));
    let unprobed = &plan.upstream("unprobed").unwrap().pool;
    assert_eq!((unprobed.health.interval, unprobed.health.timeout), (None, seconds(9)));
}

#[test]
fn what_balance_comes_to() {
    let plan = Plan::new(&Source::new("everything.toml", good())).unwrap();
    let of = |name: &str| plan.upstream(name).unwrap().pool.balance.clone();
    let seconds = Duration::from_secs;
    let users = balance::Settings {
        policy: Policy::Hash(Key::Bytes { offset: 8, size: 16 }),
        subset: 16,
        slow_start: seconds(60),
        resolve: seconds(5),
    };
    assert_eq!(of("users"), users);
    let inherited = balance::Settings { slow_start: Duration::ZERO, ..balance::Settings::default() };
    assert_eq!(of("exposed"), inherited);
    assert_eq!(of("summed").policy, Policy::RoundRobin);
    assert_eq!(of("dubbo").policy, Policy::Hash(Key::Id));
    assert_eq!(of("lines").policy, Policy::Hash(Key::Method));

    let endpoints = |name: &str| {
        let endpoints = &plan.upstream(name).unwrap().pool.endpoints;
        endpoints.iter().map(|it| (it.weight, it.backup)).collect::<Vec<_>>()
    };
    assert_eq!(endpoints("users"), [(1, false), (2, true), (1, false)]);
    assert_eq!(endpoints("summed"), [(1000, false), (1, false)]);
}

#[test]
fn what_is_written_of_balance_is_shown() {
    let directory = fixtures("valid");
    let output = warmline(&directory, &["check", "everything.toml"]);
    let shown = "
  endpoints       users-1.internal:9090, users-2.internal:9090 (weight 2, backup), unix:/run/users.sock
  balance         hash of bytes 8 to 23 among 16 endpoints, slow start of 1m, names looked up every 5s
";
    assert!(text(&output.stdout).contains(shown), "{}", text(&output.stdout));

    let output = warmline(&directory, &["check", "everything.toml", "--format", "json"]);
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let of = |name: &str| said["upstreams"].as_array().unwrap().iter().find(|it| it["name"] == name).unwrap();
    assert_eq!(of("users")["balance"], "hash of bytes 8 to 23");
    assert_eq!(of("users")["subset"], 16);
    let endpoints = serde_json::json!(["summed.internal:1 (weight 1000)", "summed.internal:2"]);
    assert_eq!(of("summed")["endpoints"], endpoints);
}

#[test]
fn the_timeout_of_a_probe_is_no_longer_than_its_interval() {
    let timeout = |interval: &str| {
        let upstream = "listen = '127.0.0.1:0'\nendpoints = 'users:1'\nprotocol = 'line'\n";
        let text = format!("[upstreams.users]\n{upstream}health.interval = '{interval}'\n");
        Plan::new(&Source::new("interval.toml", text)).unwrap().upstreams[0].pool.health.timeout
    };
    assert_eq!(timeout("250ms"), Duration::from_millis(250));
    assert_eq!(timeout("9s"), Duration::from_secs(1));
    assert_eq!(timeout("0s"), Duration::from_secs(1));
}

#[test]
fn the_shipped_file_comes_to_this() {
    let output = warmline(Path::new(env!("CARGO_MANIFEST_DIR")), &["check", "config/warmline.toml"]);
    assert_eq!(text(&output.stderr), "");
    assert_eq!(
        text(&output.stdout),
        "\
config/warmline.toml: ok
upstream example
  listen          127.0.0.1:7600
  endpoints       127.0.0.1:9090
  protocol        frame, exclusive, messages up to 16.0 MiB
  connections     1 to 32, one request at a time on each
  requests        up to 1024 waiting for 3s, answered within 15s
  clients         up to 10000
admin             unix:/run/warmline/admin.sock
in all            10000 clients, 32 upstream connections, 1 thread
file descriptors  at most 10097
memory            256.0 MiB of buffers, at most 548.6 MiB in all
"
    );
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn what_this_shell_cannot_run_is_noted() {
    let directory = tempdir("descriptors");
    let upstream = "[upstreams.users]\nlisten = '127.0.0.1:0'\nendpoints = 'users:1'\nprotocol = 'line'\n";
    fs::write(directory.join("default.toml"), upstream).unwrap();
    fs::write(directory.join("explicit.toml"), format!("[limits]\nmax_clients = 5000\n{upstream}")).unwrap();
    let descriptors = |file: &str| {
        let script = format!("ulimit -n 512 && exec \"$0\" check {file}");
        let binary = assert_cmd::cargo::cargo_bin("warmline");
        let mut shell = Command::new("sh");
        let output = shell.current_dir(&directory).arg("-c").arg(script).arg(binary).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        text(&output.stdout).lines().find(|line| line.starts_with("file descriptors")).unwrap().to_owned()
    };
    // `run` lowers the default to what there is.
    assert_eq!(descriptors("default.toml"), "file descriptors  at most 10097");
    assert_eq!(descriptors("explicit.toml"), "file descriptors  at most 5097 (this shell allows 512)");
}

#[test]
fn init_prints_what_check_accepts() {
    let directory = tempdir("init");
    for protocol in ["line", "frame", "netty4", "swoole", "tars", "brpc"] {
        let printed = warmline(&directory, &["init", "--protocol", protocol]);
        assert_eq!(printed.status.code(), Some(0), "{protocol}");
        fs::write(directory.join("printed.toml"), &printed.stdout).unwrap();
        let checked = warmline(&directory, &["check", "printed.toml"]);
        assert_eq!(text(&checked.stderr), "", "{protocol}");
        assert_eq!(checked.status.code(), Some(0), "{protocol}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_refused() {
    let directory = tempdir("unread");
    let output = warmline(&directory, &["check", "absent.toml"]);
    assert_eq!(text(&output.stderr), "absent.toml: cannot be read: No such file or directory (os error 2)\n");
    assert_eq!(output.status.code(), Some(78));

    fs::write(directory.join("long.toml"), vec![b'#'; (1 << 20) + 1]).unwrap();
    let output = warmline(&directory, &["check", "long.toml"]);
    assert_eq!(text(&output.stderr), "long.toml: is longer than 1 MiB; a configuration is not\n");
    assert_eq!(output.status.code(), Some(78));
}

#[test]
fn the_command_line_is_checked() {
    let directory = tempdir("usage");
    let cases: &[&[&str]] = &[
        &[],
        &["serve"],
        &["run"],
        &["run", "--listen", "127.0.0.1:0"],
        &["run", "--config", "a", "--listen", "127.0.0.1:0", "--endpoint", "a:1", "--protocol", "line"],
        &["check"],
        &["init", "--protocol", "tcp"],
        &["healthcheck", "--admin", "nowhere"],
    ];
    for args in cases {
        let output = warmline(&directory, args);
        assert_eq!(output.status.code(), Some(64), "{args:?}");
        assert_eq!(text(&output.stdout), "", "{args:?}");
    }
    for args in [["--help"], ["--version"]] {
        assert_eq!(warmline(&directory, &args).status.code(), Some(0), "{args:?}");
    }
}

#[test]
fn flags_are_refused_like_the_file_they_stand_for() {
    let args = ["run", "--listen", "127.0.0.1:0", "--endpoint", "users", "--protocol", "line"];
    let output = warmline(&tempdir("flags"), &args);
    assert_eq!(
        text(&output.stderr),
        "command line:3:14: `users` is not an address
  |
3 | endpoints = [\"users\"]
  |              ^^^^^^^
  |
  = help: it needs a port, as in `users:7600`
"
    );
    assert_eq!(output.status.code(), Some(64));
}

#[test]
fn a_file_may_hold_a_thousand_upstreams() {
    let file = |count: u16| {
        let upstream = |n| {
            format!(
                "[upstreams.u{n}]\nlisten = \"127.0.0.1:{}\"\nendpoints = [\"h:1\"]\nprotocol = \"line\"\n",
                10_000 + n
            )
        };
        Plan::new(&Source::new("many.toml", (0..count).map(upstream).collect::<String>()))
    };
    assert_eq!(file(1000).unwrap().upstreams.len(), 1000);
    let errors = file(1001).unwrap_err();
    assert!(errors[0].render(false).contains("1001 upstreams are too many"), "{}", errors[0].render(false));
}

/// A directory of the test `name`, empty.
fn tempdir(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("config").join(name);
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    directory
}

/// Everything a file can make warmline do before it runs.
fn digest(text: String) {
    match Plan::new(&Source::new("any.toml", text)) {
        Ok(plan) => {
            assert!(plan.fd_budget() > plan.limits.max_clients);
            assert!(plan.memory_bound() > plan.limits.memory);
        }
        Err(errors) => {
            assert!(!errors.is_empty());
            for error in errors {
                let shown = error.render(false);
                let control = |c: char| c.is_control() && c != '\n';
                assert!(!shown.contains(control), "{shown:?}");
                assert!(error.line >= 1 && error.column >= 1, "{shown}");
                assert!(shown.contains('^'), "{shown}");
                assert!(!error.render(true).is_empty());
                // A near name is the remedy itself.
                assert!(shown.contains("= help: ") || shown.contains("did you mean"), "{shown}");
            }
        }
    }
}

fn good() -> String {
    fs::read_to_string(fixtures("valid").join("everything.toml")).unwrap()
}

proptest! {
    #[test]
    fn any_text_is_digested(text in any::<String>()) {
        digest(text);
    }

    #[test]
    fn good_files_with_other_bytes_in_them_are_digested(
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0usize..12, "[ -~\n]{0,6}|\\PC|[0-9]{1,20}"), 1..6),
    ) {
        let mut text = good();
        for (at, len, new) in changes {
            let start = at.index(text.len());
            let end = (start + len).min(text.len());
            if text.is_char_boundary(start) && text.is_char_boundary(end) {
                text.replace_range(start..end, &new);
            }
        }
        digest(text);
    }

    #[test]
    fn good_files_with_lines_moved_are_digested(
        moves in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..8),
    ) {
        let text = good();
        let mut lines: Vec<&str> = text.lines().collect();
        for (from, to) in moves {
            let (from, to) = (from.index(lines.len()), to.index(lines.len()));
            lines.swap(from, to);
        }
        digest(lines.join("\n"));
    }

    #[test]
    fn good_files_with_other_values_are_digested(
        place in any::<prop::sample::Index>(),
        value in r#"-?[0-9]{1,19}|"[0-9]{1,19}(ms|s|d|y|KiB|TiB|EB|)"|"hex:[0-9a-g ]{0,9}"|true|\[\]|\{\}|""|1e9|inf"#,
    ) {
        let text = good();
        let places: Vec<usize> = text.match_indices(" = ").map(|(at, _)| at).collect();
        let start = places[place.index(places.len())] + 3;
        let end = start + text[start..].find('\n').unwrap_or(0);
        digest(format!("{}{value}{}", &text[..start], &text[end..]));
    }
}
