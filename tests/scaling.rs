//! Holds `docs/scaling.md` to what was measured, and its simulation to theory. Needs Python.

use std::process::Command;

fn simulate(option: &str) {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/scaling/simulate.py");
    let output = Command::new("python3")
        .args(["-B", program, option])
        .output()
        .expect("python3 is installed by `tests/run`");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
#[cfg_attr(not(feature = "peers"), ignore = "needs Python; tests/run runs it")]
fn the_simulation_agrees_with_theory() {
    simulate("--test");
}

#[test]
#[cfg_attr(not(feature = "peers"), ignore = "needs Python; tests/run runs it")]
fn the_figures_are_those_of_the_measured_coefficients() {
    simulate("--check");
}
