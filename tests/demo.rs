//! `warmline demo` through the real binary: what it prints, and how it ends.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::Output;

use assert_cmd::Command;

fn demo(args: &[&str]) -> Output {
    Command::cargo_bin("warmline").unwrap().arg("demo").args(args).output().unwrap()
}

/// The two figures of the row called `name`.
fn row<'a>(report: &'a str, name: &str) -> [&'a str; 2] {
    let mut found = report.lines().filter_map(|line| line.strip_prefix(name));
    let figures = found.next().unwrap_or_else(|| panic!("no {name} in\n{report}"));
    // A unit does not count.
    let words: Vec<&str> = figures.split_whitespace().filter(|word| *word != "ms").collect();
    words.try_into().unwrap_or_else(|words| panic!("{name}: {words:?}"))
}

fn number(text: &str) -> u64 {
    text.replace(',', "").parse().unwrap_or_else(|_| panic!("{text} is no number"))
}

#[test]
fn it_shows_the_main_job() {
    let output = demo(&["--requests", "1201", "--clients", "8"]);
    let report = String::from_utf8(output.stdout).unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "there is no terminal to show progress on");
    assert_eq!(output.status.code(), Some(0), "{report}");

    assert_eq!(row(&report, "requests"), ["1,201", "1,201"]);
    assert_eq!(row(&report, "wrong replies"), ["0", "0"]);
    assert_eq!(row(&report, "failed"), ["0", "0"]);
    let [direct, opened] = row(&report, "connections opened at the server").map(number);
    assert_eq!(direct, 1201);
    assert!((1..=4).contains(&opened), "{report}");
    assert_eq!(number(row(&report, "handshakes saved")[1]), 1201 - opened);
    for name in ["latency p50, connect included", "latency p99, connect included"] {
        assert!(row(&report, name).iter().all(|time| time.parse::<f64>().is_ok()), "{report}");
    }
    let [direct, through] = row(&report, "TIME_WAIT left at the server's port").map(number);
    assert!(direct > 0, "plain closes leave something\n{report}");
    // Where the server's FIN crosses ours, one side keeps it.
    assert!(through <= opened, "{report}");
    let left = number(row(&report, "TIME_WAIT left at warmline's port")[1]);
    assert!(left <= 1201 / 20, "{report}");
    assert!(report.contains("warmline run --config warmline.toml"), "{report}");
}

#[test]
fn the_smallest_one_works() {
    let output = demo(&["--requests", "1", "--clients", "1"]);
    let report = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert_eq!(row(&report, "requests"), ["1", "1"]);
}

#[test]
fn figures_have_bounds() {
    for wrong in [["--requests", "0"], ["--requests", "1000001"], ["--clients", "0"], ["--clients", "257"]] {
        assert_eq!(demo(&wrong).status.code(), Some(64), "{wrong:?}");
    }
}
