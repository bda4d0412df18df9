//! `#[cluster::main]`: checks the function and writes the `main` that hands it to `cluster::run`.
//!
//! The body is kept as tokens and never read, so that a half-written statement costs an editor nothing. Whatever is
//! wrong, a `main` with that body still comes out, so that each mistake is one message.

use std::time::Duration;

use proc_macro2::{Delimiter, Group, Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};
use syn::parse::{Parse, ParseStream};
use syn::spanned::Spanned as _;
use syn::{Attribute, FnArg, Pat, PatIdent, Result, Safety, Signature, Type, Visibility};

use crate::args::{Dispatch, Given, Limit, Plan, Restart, Workers};
use crate::mistakes::Mistakes;

pub(crate) fn main(args: TokenStream, item: &TokenStream) -> TokenStream {
    let mut mistakes = Mistakes::default();
    let Ok(function) = syn::parse2::<Function>(item.clone()) else {
        mistakes.at(Span::call_site(), "`#[cluster::main]` belongs on a function: write it above `async fn main()`");
        return quote!(#mistakes #item);
    };
    if function.signature.ident != "main" {
        mistakes.on(
            &function.signature.ident,
            "`#[cluster::main]` belongs on `main`; to start a cluster from elsewhere, call `cluster::run`",
        );
        return quote!(#mistakes #item);
    }
    let plan = Plan::read(args, &mut mistakes);
    function.check(&mut mistakes);
    if mistakes.is_empty() {
        function.expand(&plan)
    } else {
        let main = function.fallback();
        quote!(#mistakes #main)
    }
}

/// A function whose body is not parsed.
struct Function {
    attributes: Vec<Attribute>,
    visibility: Visibility,
    signature: Signature,
    body: Group,
}

impl Parse for Function {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let function = Self {
            attributes: input.call(Attribute::parse_outer)?,
            visibility: input.parse()?,
            signature: input.parse()?,
            body: input.parse()?,
        };
        match function.body.delimiter() {
            Delimiter::Brace => Ok(function),
            _ => Err(input.error("expected a body")),
        }
    }
}

impl Function {
    /// The `main` that the process starts with: the user's, unchanged but for its attributes, and the call that runs it.
    fn expand(&self, plan: &Plan) -> TokenStream {
        let inner = self.inner();
        let run = run(plan, self.blame());
        self.outer(&quote!(#inner #run))
    }

    /// The same without the call, which compiles whatever the mistake was.
    fn fallback(&self) -> TokenStream {
        let inner = self.inner();
        self.outer(&quote!(#inner ::core::unreachable!()))
    }

    fn outer(&self, body: &TokenStream) -> TokenStream {
        let Self { attributes, visibility, signature: Signature { fn_token, ident, output, .. }, .. } = self;
        let attributes = attributes.iter().filter(|attribute| !builds_runtime(attribute));
        quote!(#(#attributes)* #visibility #fn_token #ident() #output { #body })
    }

    /// The user's function, cleared of what no inner function can be.
    fn inner(&self) -> TokenStream {
        let Self { signature, body, .. } = self;
        let inputs = signature.inputs.iter().filter(|input| matches!(input, FnArg::Typed(_)));
        let signature = Signature {
            constness: None,
            asyncness: Some(signature.asyncness.unwrap_or_default()),
            abi: None,
            inputs: inputs.cloned().collect(),
            variadic: None,
            ..signature.clone()
        };
        quote!(#signature #body)
    }

    /// Where the compiler shall point if this function is none that `run` takes.
    fn blame(&self) -> Span {
        match self.signature.inputs.first() {
            Some(FnArg::Typed(argument)) => argument.ty.span(),
            _ => self.signature.ident.span(),
        }
    }
}

/// `cluster::run(Config::new().key(value)…, main)`
fn run(plan: &Plan, blame: Span) -> TokenStream {
    let krate = krate(plan, Span::call_site());
    let config = config(plan);
    let main = Ident::new("main", blame);
    quote!(#krate::run(#config, #main))
}

/// The `Config`, which the compiler blames for a primary function that does not fit: it stands where that one is named.
fn config(plan: &Plan) -> TokenStream {
    let span = plan.primary.as_ref().map_or_else(Span::call_site, |given| generated_at(given.value.span()));
    let krate = krate(plan, span);
    let start = match &plan.config {
        None => quote_spanned!(span=> #krate::Config::new()),
        // With its type said, so that another one is not blamed on the first setter.
        Some(config) => {
            let place = generated_at(config.span());
            let krate = self::krate(plan, place);
            let ty = quote_spanned!(place=> #krate::Config<_>);
            quote_spanned!(span=> { let config: #ty = #config; config })
        }
    };
    let setters = [
        setter(span, &plan.workers, |workers| match workers {
            Workers::Auto => quote!(#krate::Workers::Auto),
            Workers::Count(count) => quote!(#count),
        }),
        setter(span, &plan.threads, |threads| quote!(#threads)),
        setter(span, &plan.dispatch, |dispatch| match dispatch {
            Dispatch::Balanced => quote!(#krate::Dispatch::Balanced),
            Dispatch::Kernel => quote!(#krate::Dispatch::Kernel),
            Dispatch::RoundRobin => quote!(#krate::Dispatch::RoundRobin),
            Dispatch::Sticky => quote!(#krate::Sticky::address()),
            Dispatch::Value(value) => quote!(#value),
        }),
        setter(span, &plan.restart, |restart| match restart {
            Restart::Always => quote!(#krate::Restart::Always),
            Restart::OnFailure => quote!(#krate::Restart::OnFailure),
            Restart::Never => quote!(#krate::Restart::Never),
        }),
        setter(span, &plan.start_timeout, milliseconds),
        setter(span, &plan.grace, milliseconds),
        setter(span, &plan.drain_delay, milliseconds),
        setter(span, &plan.drain_spread, milliseconds),
        setter(span, &plan.surge, ToTokens::to_token_stream),
        setter(span, &plan.watchdog, |limit| option(limit, milliseconds)),
        setter(span, &plan.max_requests, |limit| option(limit, ToTokens::to_token_stream)),
        setter(span, &plan.max_age, |limit| option(limit, milliseconds)),
        setter(span, &plan.max_memory, |limit| option(limit, ToTokens::to_token_stream)),
        setter(span, &plan.max_message, ToTokens::to_token_stream),
        setter(span, &plan.max_expansion, ToTokens::to_token_stream),
        setter(span, &plan.setup, ToTokens::to_token_stream),
        // Last, because it changes the Config's type parameter.
        setter(span, &plan.primary, ToTokens::to_token_stream),
    ];
    quote!(#start #(#setters)*)
}

fn krate(plan: &Plan, span: Span) -> TokenStream {
    plan.krate.as_ref().map_or_else(|| quote_spanned!(span=> ::cluster), ToTokens::to_token_stream)
}

/// The place of the user's tokens, but known to be generated: no lint takes what stands there for the user's.
fn generated_at(place: Span) -> Span {
    place.resolved_at(Span::call_site())
}

/// `.key(value)`, the method's name where the user wrote the key.
fn setter<T>(span: Span, given: &Option<Given<T>>, value: impl FnOnce(&T) -> TokenStream) -> TokenStream {
    given.as_ref().map_or_else(TokenStream::new, |Given { key, value: given }| {
        let value = value(given);
        quote_spanned!(span=> .#key(#value))
    })
}

fn option<T>(limit: &Limit<T>, value: impl FnOnce(&T) -> TokenStream) -> TokenStream {
    match limit {
        Limit::Off => quote!(::core::option::Option::None),
        Limit::At(limit) => {
            let value = value(limit);
            quote!(::core::option::Option::Some(#value))
        }
    }
}

fn milliseconds(time: &Duration) -> TokenStream {
    let milliseconds = u64::try_from(time.as_millis()).expect("the longest setting is a year");
    quote!(::core::time::Duration::from_millis(#milliseconds))
}

/// What is refused.
impl Function {
    fn check(&self, mistakes: &mut Mistakes) {
        self.check_attributes(mistakes);
        self.check_qualifiers(mistakes);
        self.check_argument(mistakes);
    }

    fn check_attributes(&self, mistakes: &mut Mistakes) {
        for attribute in self.attributes.iter().filter(|attribute| builds_runtime(attribute)) {
            let name = attribute.path().to_token_stream().to_string().replace(' ', "");
            let message = if attribute.path().segments[0].ident == "cluster" {
                format!("`#[{name}]` stands here twice: delete one")
            } else {
                format!("delete `#[{name}]`: `#[cluster::main]` builds the runtime")
            };
            mistakes.on(attribute, message);
        }
    }

    fn check_qualifiers(&self, mistakes: &mut Mistakes) {
        let Signature { constness, asyncness, safety, abi, fn_token, generics, .. } = &self.signature;
        if asyncness.is_none() {
            if built_a_runtime(self.body.stream()) {
                mistakes.at(
                    Span::call_site(),
                    "an attribute above this one has already built a runtime around `main`: delete that attribute (such \
                     as `#[tokio::main]`), `#[cluster::main]` builds the runtime",
                );
            } else {
                mistakes.at(fn_token.span, "`#[cluster::main]` needs an async function: write `async fn main()`");
            }
        }
        if let Some(token) = constness {
            mistakes.on(token, "`main` cannot be const: delete `const`");
        }
        if let Safety::Unsafe(token) = safety {
            mistakes.on(token, "`main` cannot be unsafe: delete `unsafe`");
        }
        if let Some(abi) = abi {
            mistakes.on(abi, "`main` has Rust's own calling convention: delete this");
        }
        if !generics.params.is_empty() {
            mistakes.on(generics, "`main` cannot be generic: write the types out");
        } else if let Some(clause) = &generics.where_clause {
            mistakes.on(clause, "`main` cannot have a where clause: delete it");
        }
    }

    /// `main()` or `main(worker: Worker<Up, Down>)`. Whether the type is a `Worker` is for the runtime's traits to say: it
    /// may have another name here.
    fn check_argument(&self, mistakes: &mut Mistakes) {
        let Signature { inputs, variadic, .. } = &self.signature;
        if let Some(second) = inputs.iter().nth(1) {
            mistakes.on(second, format_args!("one argument too many: {WANTED}"));
        } else if let Some(variadic) = variadic {
            mistakes.on(variadic, format_args!("`main` is not variadic: {WANTED}"));
        } else if let Some(FnArg::Receiver(receiver)) = inputs.first() {
            mistakes.on(receiver, format_args!("`main` is not a method: {WANTED}"));
        } else if let Some(FnArg::Typed(argument)) = inputs.first() {
            match &*argument.pat {
                Pat::Ident(PatIdent { by_ref: None, subpat: None, .. }) | Pat::Wild(_) => {}
                pattern => mistakes.on(pattern, format_args!("the argument is a plain name: {WANTED}")),
            }
            match unwrapped(&argument.ty) {
                Type::Path(_) => {}
                Type::Reference(reference) => {
                    mistakes.on(reference, "`main` owns its worker: write the type without `&`");
                }
                other => mistakes.on(other, format_args!("this is no `Worker`: {WANTED}")),
            }
        }
    }
}

const WANTED: &str = "write `async fn main()` or `async fn main(worker: Worker<Up, Down>)`";

/// Whether this attribute starts a runtime: `#[tokio::main]`, `#[actix_web::main]`, `#[rocket::launch]`, ours once more.
fn builds_runtime(attribute: &Attribute) -> bool {
    let segments = &attribute.path().segments;
    segments.last().is_some_and(|last| last.ident == "main" || (segments.len() > 1 && last.ident == "launch"))
}

/// Whether an attribute above ours has turned the async `main` into a sync one that blocks on it: its `block_on` is then
/// no text of the user's. (An attribute below ours has not run yet and still stands among the attributes.)
fn built_a_runtime(body: TokenStream) -> bool {
    body.into_iter().any(|token| match token {
        TokenTree::Ident(name) => {
            name == "block_on" && name.span().source_text().is_some_and(|text| text != "block_on")
        }
        TokenTree::Group(group) => built_a_runtime(group.stream()),
        TokenTree::Punct(_) | TokenTree::Literal(_) => false,
    })
}

/// The type without the invisible group in which a `macro_rules!` argument comes.
fn unwrapped(ty: &Type) -> &Type {
    match ty {
        Type::Group(group) => unwrapped(&group.elem),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_expands(args: TokenStream, item: &TokenStream, expected: &TokenStream) {
        assert_eq!(main(args, item).to_string(), expected.to_string());
    }

    #[test]
    fn without_keys_main_is_run_with_the_defaults() {
        let item = quote! {
            /// Starts.
            #[allow(unused)]
            pub async fn main() -> cluster::Result { body().await }
        };
        let expected = quote! {
            /// Starts.
            #[allow(unused)]
            pub fn main() -> cluster::Result {
                async fn main() -> cluster::Result { body().await }
                ::cluster::run(::cluster::Config::new(), main)
            }
        };
        assert_expands(TokenStream::new(), &item, &expected);
    }

    #[test]
    fn each_key_becomes_a_setter_and_primary_the_last() {
        let args = quote! {
            primary = count, workers = "auto", threads = 2, restart = "on-failure", start_timeout = "1m 30s",
            grace = "500ms",
        };
        let item = quote!(
            async fn main(worker: Worker<Up, Down>) {
                body()
            }
        );
        let expected = quote! {
            fn main() {
                async fn main(worker: Worker<Up, Down>) { body() }
                ::cluster::run(
                    ::cluster::Config::new()
                        .workers(::cluster::Workers::Auto)
                        .threads(2usize)
                        .restart(::cluster::Restart::OnFailure)
                        .start_timeout(::core::time::Duration::from_millis(90000u64))
                        .grace(::core::time::Duration::from_millis(500u64))
                        .primary(count),
                    main
                )
            }
        };
        assert_expands(args, &item, &expected);
    }

    #[test]
    fn a_config_is_the_start_that_the_other_keys_go_on_from() {
        let args = quote!(crate = "my::cluster", config = read()?, workers = 4);
        let expected = quote! {
            fn main() {
                async fn main() {}
                my::cluster::run({ let config: my::cluster::Config<_> = read()?; config }.workers(4usize), main)
            }
        };
        assert_expands(
            args,
            &quote!(
                async fn main() {}
            ),
            &expected,
        );
    }

    #[test]
    fn the_body_is_not_read() {
        let item = quote!(async fn main() { let x = ; self.. });
        let expansion = main(TokenStream::new(), &item).to_string();
        assert!(expansion.contains(&quote!({ let x = ; self.. }).to_string()), "{expansion}");
        assert!(!expansion.contains("compile_error"), "{expansion}");
    }

    #[test]
    fn a_mistake_leaves_a_main_that_compiles_without_the_runtime() {
        let item = quote! {
            #[tokio::main]
            const unsafe extern "C" fn main(self, port: u16) -> u8 { 4 }
        };
        let expansion = main(quote!(workers = 0), &item).to_string();
        let main = quote! {
            fn main() -> u8 {
                async unsafe fn main(port: u16) -> u8 { 4 }
                ::core::unreachable!()
            }
        };
        assert_eq!(expansion.matches("compile_error").count(), 7, "{expansion}");
        assert!(expansion.ends_with(&main.to_string()), "{expansion}");
    }

    #[test]
    fn what_is_not_main_is_left_as_it_is() {
        for item in [
            quote!(
                async fn start() {}
            ),
            quote!(
                struct Server;
            ),
        ] {
            let expansion = main(TokenStream::new(), &item).to_string();
            assert_eq!(expansion.matches("compile_error").count(), 1, "{expansion}");
            assert!(expansion.ends_with(&item.to_string()), "{expansion}");
        }
    }
}
