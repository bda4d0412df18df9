//! The example of the design: messages up, requests up, messages down.
#![deny(warnings, missing_docs, unused, nonstandard_style, future_incompatible, rust_2018_idioms, unreachable_pub)]
#![deny(unused_qualifications, unused_results, unused_lifetimes, single_use_lifetimes, let_underscore_drop)]
#![deny(clippy::all, clippy::pedantic)]

mod program {
    use cluster::{Event, Message, Primary, Reply, Worker};

    #[derive(Message)]
    enum ToPrimary {
        Hit { path: String },
        Total(Reply<u64>),
    }

    #[derive(Message)]
    enum ToWorker {
        Announce(String),
    }

    #[cluster::main(workers = "auto", primary = count)]
    pub(crate) async fn main(worker: Worker<ToPrimary, ToWorker>) -> Result<(), Box<dyn std::error::Error>> {
        worker.send(ToPrimary::Hit { path: "/".to_owned() }).await?;
        let total: u64 = worker.call(ToPrimary::Total).await?;
        while let Some(ToWorker::Announce(text)) = worker.recv().await {
            println!("{total} {text}");
        }
        Ok(())
    }

    async fn count(mut primary: Primary<ToPrimary, ToWorker>) -> cluster::Result {
        let mut hits = 0;
        while let Some(event) = primary.next().await {
            match event {
                Event::Message(_, ToPrimary::Hit { path }) => hits += u64::from(!path.is_empty()),
                Event::Message(_, ToPrimary::Total(reply)) => reply.send(hits),
                Event::Exited(..) => drop(primary.broadcast(ToWorker::Announce("gone".to_owned())).await?),
                _ => {}
            }
        }
        Ok(())
    }
}

fn main() {
    let _ = program::main;
}
