//! The threads, each with a runtime of its own: a task stays on the one it was spawned on.
//!
//! The first worker is the thread that asks for them; it also has signals, admin endpoint and drain. The keeper
//! of an upstream and its connections run on the upstream's home, a session on the worker that accepted it. All of
//! them end with the value.

use std::io;
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, Handle};

use crate::lifecycle::{Phase, Switch};

/// The workers at work.
#[derive(Debug)]
pub(super) struct Workers {
    runtimes: Vec<Handle>,
    threads: Vec<JoinHandle<()>>,
    running: Switch,
}

impl Workers {
    /// `count` workers, this thread with its runtime included.
    ///
    /// # Errors
    /// Where there is no thread or no runtime to be had.
    pub(super) fn start(count: usize) -> io::Result<Self> {
        let runtimes = vec![Handle::current()];
        let mut workers = Self { runtimes, threads: Vec::new(), running: Switch::new() };
        for number in 1..count {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            workers.runtimes.push(runtime.handle().clone());
            let mut running = workers.running.watch();
            let run = move || {
                runtime.block_on(running.reached(Phase::Stopped));
                // A name that is still being looked up is not waited for.
                runtime.shutdown_background();
            };
            workers.threads.push(thread::Builder::new().name(format!("worker-{number}")).spawn(run)?);
        }
        Ok(workers)
    }

    /// All, the first one in front.
    pub(super) fn all(&self) -> &[Handle] {
        &self.runtimes
    }

    /// All but the first.
    pub(super) fn others(&self) -> &[Handle] {
        &self.runtimes[1..]
    }

    /// The home of an upstream: they have theirs in turn.
    pub(super) fn home(&self, upstream: usize) -> &Handle {
        &self.runtimes[upstream % self.runtimes.len()]
    }

    /// Ends the threads with whatever still runs on them.
    pub(super) fn stop(&mut self) {
        self.running.stop();
        for thread in self.threads.drain(..) {
            // Nothing that could panic runs on the thread outside of tasks.
            let _ = thread.join();
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// The name of the thread on which a task runs.
    fn name_on(worker: &Handle) -> impl Future<Output = String> + use<> {
        let task = worker.spawn(async { thread::current().name().unwrap_or_default().to_owned() });
        async { task.await.unwrap() }
    }

    #[tokio::test]
    async fn upstreams_have_their_homes_in_turn() {
        let workers = Workers::start(3).unwrap();
        assert_eq!(workers.others().len(), 2);
        let mut names = Vec::new();
        for upstream in 0..6 {
            names.push(name_on(workers.home(upstream)).await);
        }
        assert_eq!(names[1..3], ["worker-1", "worker-2"]);
        assert_eq!(names[..3], names[3..]);
        assert_eq!(Some(&*names[0]), thread::current().name());
    }

    #[tokio::test]
    async fn a_panic_of_a_task_ends_that_task_only() {
        let workers = Workers::start(2).unwrap();
        let panicked = workers.home(1).spawn(async { panic!("of the test") });
        assert!(panicked.await.is_err());
        assert_eq!(name_on(workers.home(1)).await, "worker-1");
    }

    #[tokio::test]
    async fn what_runs_on_a_thread_ends_with_it() {
        let mut workers = Workers::start(2).unwrap();
        let (alive, ended) = mpsc::channel::<()>();
        workers.home(1).spawn(async move {
            std::future::pending::<()>().await;
            drop(alive);
        });
        workers.stop();
        assert_eq!(ended.try_recv(), Err(mpsc::TryRecvError::Disconnected));
    }
}
