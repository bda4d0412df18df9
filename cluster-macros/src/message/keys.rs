//! What the user says of the message itself: `#[message(…)]`.

use syn::ext::IdentExt as _;
use syn::parse::ParseStream;
use syn::{Attribute, Ident, LitInt, Path, Token, parse_quote};

use crate::args::crate_path;
use crate::mistakes::Mistakes;

/// The keys in `#[message(…)]`.
pub(super) struct Keys {
    pub(super) krate: Path,
    pub(super) version: Option<u32>,
}

impl Keys {
    pub(super) fn read(attributes: &[Attribute], mistakes: &mut Mistakes) -> Self {
        let mut keys = Self { krate: parse_quote!(::cluster), version: None };
        for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("message")) {
            if attribute.parse_args_with(|input: ParseStream<'_>| keys.take(input)).is_err() {
                let remedy = r#"write `#[message(crate = "path::to::cluster")]` or `#[message(version = 2)]`; there is no other key"#;
                mistakes.on(attribute, remedy);
            }
        }
        keys
    }

    fn take(&mut self, input: ParseStream<'_>) -> syn::Result<()> {
        while !input.is_empty() {
            let key = input.call(Ident::parse_any)?;
            input.parse::<Token![=]>()?;
            match key.to_string().as_str() {
                "crate" => self.krate = crate_path(&input.parse()?)?,
                "version" if self.version.is_none() => self.version = Some(input.parse::<LitInt>()?.base10_parse()?),
                _ => return Err(input.error("unknown")),
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(())
    }
}
