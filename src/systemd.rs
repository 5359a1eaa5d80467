//! Tells the service manager how far the daemon has come.
//!
//! Invariant: harmless where there is no manager or it does not listen. The daemon calls these.

use sd_notify::NotifyState;

use crate::events::process;

/// Start-up is over.
pub fn ready() {
    notify(&[NotifyState::Ready]);
}

/// The configuration is read again; [`ready`] must follow.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(fault) => process::notify_failed(&fault),
    }
}

/// The daemon is draining.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// One line for `systemctl status`.
pub fn status(text: &str) {
    // A line of its own would be another assignment.
    notify(&[NotifyState::Status(&text.replace(char::is_control, " "))]);
}

fn notify(states: &[NotifyState]) {
    if let Err(fault) = sd_notify::notify(states) {
        process::notify_failed(&fault);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::path::Path;
    use std::process::Command;

    /// Run by itself it shows that nothing happens without a manager; the other tests run it with one.
    #[test]
    fn speaks() {
        super::ready();
        super::reloading();
        super::status("10 pools\nREADY=0");
        super::stopping();
    }

    /// Runs `speaks` in a process whose environment names this socket.
    fn speak_to(socket: &Path) {
        let this = std::env::current_exe().unwrap();
        let mut child = Command::new(this);
        child.args(["--exact", "systemd::tests::speaks"]).env("NOTIFY_SOCKET", socket);
        let output = child.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }

    #[test]
    fn the_manager_is_told() {
        let path = std::env::temp_dir().join(format!("warmline-notify-{}.sock", std::process::id()));
        let manager = UnixDatagram::bind(&path).unwrap();
        speak_to(&path);
        std::fs::remove_file(&path).unwrap();
        manager.set_nonblocking(true).unwrap();
        let mut buffer = [0; 256];
        let told = std::iter::from_fn(|| {
            let length = manager.recv(&mut buffer).ok()?;
            Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
        });
        let mut told: Vec<_> = told.collect();
        let reloading = told.remove(1);
        assert_eq!(told, ["READY=1\n", "STATUS=10 pools READY=0\n", "STOPPING=1\n"]);
        let now = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().trim_end();
        assert!(now.parse::<u64>().unwrap() > 0);
    }

    #[test]
    fn a_manager_that_is_gone_does_no_harm() {
        speak_to(Path::new("/nonexistent/notify"));
    }
}
