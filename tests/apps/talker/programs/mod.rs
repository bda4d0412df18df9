//! The programs: each is a module with the worker's side and the primary's.

mod backlog;
mod broadcast;
mod calls;
mod deaf;
mod early;
mod endless;
mod flood_down;
mod flood_up;
mod gone;
mod handles;
mod life;
mod order;
mod orphan;
mod parting;
mod shapes;
mod spin;
mod stages;
mod told;
pub(crate) mod touchy;
mod unanswered;
mod unheard;

use cluster::Config;

/// Runs the one of this name.
pub(crate) fn run(name: &str) -> cluster::Result {
    let config = Config::new().workers(2);
    match name {
        "backlog" => cluster::run(config.primary(backlog::primary), backlog::worker),
        "broadcast" => cluster::run(config.primary(broadcast::primary), broadcast::worker),
        "calls" => cluster::run(config.primary(calls::primary), calls::worker),
        "deaf" => cluster::run(config.primary(deaf::primary), deaf::worker),
        "early" => cluster::run(config.primary(early::primary), early::worker),
        "endless" => cluster::run(config.primary(endless::primary), endless::worker),
        "flood-down" => cluster::run(config.primary(flood_down::primary), flood_down::worker),
        "flood-up" => cluster::run(config.primary(flood_up::primary), flood_up::worker),
        "gone" => cluster::run(config.primary(gone::primary), gone::worker),
        "handles" => cluster::run(config.primary(handles::primary), handles::worker),
        "life" => cluster::run(config.primary(life::primary), life::worker),
        "nobody" => cluster::run(config, unheard::worker),
        "order" => cluster::run(config.primary(order::primary), order::worker),
        "orphan" => cluster::run(config.primary(orphan::primary), orphan::worker),
        "parting" => cluster::run(config.primary(parting::primary), parting::worker),
        "shapes" => cluster::run(config.primary(shapes::primary), shapes::worker),
        "spin" => cluster::run(config.primary(spin::primary), spin::worker),
        "stages" => cluster::run(config.primary(stages::primary), stages::worker),
        "told" => cluster::run(config.primary(told::primary), told::worker),
        "touchy" => cluster::run(config.primary(touchy::primary), touchy::worker),
        "unanswered" => cluster::run(config.primary(unanswered::primary), unanswered::worker),
        "unheard" => cluster::run(config.primary(unheard::primary), unheard::worker),
        other => Err(format!("no program {other:?}").into()),
    }
}
