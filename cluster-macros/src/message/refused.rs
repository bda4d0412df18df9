//! Types of fields that cannot cross a process boundary.

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens as _;
use syn::Type;

use super::handle::Handle;
use super::model::Kind;
use super::text::plainly;
use crate::mistakes::Mistakes;

/// Every lifetime shows in some field, so the type's lifetime parameters need no word of their own.
pub(super) fn refuse_borrowed(ty: &Type, mistakes: &mut Mistakes) {
    let borrows = find(ty.to_token_stream(), &|token, _| match token {
        TokenTree::Punct(mark) if matches!(mark.as_char(), '&' | '\'') => Some(()),
        _ => None,
    });
    if borrows.is_some() {
        let remedy = owned(ty);
        mistakes.on(ty, format_args!("messages cross a process boundary and must own their data: write {remedy}"));
    }
}

fn owned(ty: &Type) -> String {
    let Type::Reference(reference) = ty else {
        return "an owned type, such as `String` or `Vec<u8>`".to_owned();
    };
    match &*reference.elem {
        Type::Path(path) if path.path.is_ident("str") => "`String`".to_owned(),
        Type::Slice(slice) => format!("`Vec<{}>`", plainly(slice.elem.to_token_stream())),
        other => format!("`{}`", plainly(other.to_token_stream())),
    }
}

pub(super) fn refuse_nested_handle(ty: &Type, kind: Kind<'_>, mistakes: &mut Mistakes) {
    let inside = match kind {
        Kind::Data => ty,
        Kind::Handle(_, answer) => answer,
    };
    let nested = find(inside.to_token_stream(), &|token, next| match token {
        TokenTree::Ident(name) if matches!(next, Some(TokenTree::Punct(mark)) if mark.as_char() == '<') => {
            Handle::called(name)
        }
        _ => None,
    });
    if let Some(handle) = nested {
        let (name, field) = (handle.name(), handle.maker());
        mistakes.on(
            ty,
            format_args!(
                "a `{name}` cannot travel inside another type: write the `{name}<T>` as a field of its own: \
                 `Variant {{ {field}: {name}<T> }}`"
            ),
        );
    }
}

/// What is found in any token, looked at together with the next.
fn find<T>(tokens: TokenStream, look: &impl Fn(&TokenTree, Option<&TokenTree>) -> Option<T>) -> Option<T> {
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        let inside = match &token {
            TokenTree::Group(group) => find(group.stream(), look),
            TokenTree::Ident(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => None,
        };
        if let found @ Some(_) = inside.or_else(|| look(&token, tokens.peek())) {
            return found;
        }
    }
    None
}
