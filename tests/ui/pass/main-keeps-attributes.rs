//! Documentation, lint levels and conditions on main are kept, and hold for the body too.
#![deny(warnings, missing_docs, unused, nonstandard_style, future_incompatible, rust_2018_idioms, unreachable_pub)]
#![deny(unused_qualifications, unused_results, unused_lifetimes, single_use_lifetimes, let_underscore_drop)]
#![deny(clippy::all, clippy::pedantic)]

mod program {
    /// Starts.
    #[allow(unused_variables, clippy::mixed_attributes_style)]
    #[cfg(not(any()))]
    #[expect(unused_mut, reason = "it must hold in the body")]
    #[cluster::main]
    #[doc(hidden)]
    #[inline(never)]
    pub(crate) async fn main() {
        #![allow(clippy::let_unit_value)]
        let unused = 1;
        let mut nothing = ();
        std::future::ready(nothing).await;
    }
}

fn main() {
    let _ = program::main;
}
