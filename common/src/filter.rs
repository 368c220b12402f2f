//! A webhook's filter: a CEL expression over the event's JSON body, compiled once.
//!
//! The `cel` crate parses; evaluation is our own, for what it promises: it costs at most
//! `MAX_STEPS` however large the event, allocates in proportion to them, cannot panic, and takes
//! whole numbers for int on both sides of an operator (40 == 40.0, 3.5 < 4). Supported: fields,
//! indexes, literals of lists and maps, operators, `? :`, has, all, exists, exists_one, map, filter,
//! size, contains, startsWith, endsWith, matches, int, double, string, bool, dyn. Times are strings.

use cel::parser::{
    PrattParser,
    pratt_parser::{Lexer, TokenKind},
};

mod compile;
mod eval;
mod operators;
mod subject;
mod value;

#[cfg(test)]
mod tests;

pub use subject::Subject;

use compile::Node;
use eval::Run;
use value::Value;

/// Bytes of an expression.
pub const MAX_BYTES: usize = 2048;
/// Of an expression's tree, as written.
const MAX_NODES: usize = 200;
/// Bounds the parser's recursion along chains (a.b.c, a ? b : c ? d : e) before it begins.
const MAX_TOKENS: usize = 1000;
/// Of parentheses, brackets and arguments.
const MAX_DEPTH: u16 = 32;
/// Macros within macros.
const MAX_NESTED_MACROS: usize = 2;
/// What one evaluation may cost: a step is a node visited, an item compared or made, or some bytes
/// of text read or made. About a millisecond; some ten with a regex that goes on many ways at once.
const MAX_STEPS: u32 = 100_000;

/// A compiled filter.
#[derive(Debug)]
pub struct Filter {
    root: Node,
}

/// What is wrong with an expression, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct FilterError {
    pub message: String,
}

/// Why a filter is not true of an event: a clause that follows "the filter".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotTrue {
    #[error("is false")]
    False,
    #[error("is not true: {0}")]
    Error(String),
}

impl Filter {
    pub fn compile(source: &str) -> Result<Self, FilterError> {
        if source.len() > MAX_BYTES {
            return Err(FilterError::new(format!("must be at most {MAX_BYTES} bytes")));
        }
        check_tokens(source)?;
        let parser = PrattParser::new().max_recursion_depth(MAX_DEPTH).error_recovery_limit(0);
        let tree = parser.parse(source).map_err(|errors| FilterError::of_parser(&errors))?;
        Ok(Self { root: compile::compile(&tree, source)? })
    }

    /// Whether the filter is true of the event; an error is not true.
    pub fn matches(&self, subject: &Subject) -> bool {
        matches!(self.run(subject), Ok(Value::Bool(true)))
    }

    /// Why it is not true.
    pub fn verdict(&self, subject: &Subject) -> Result<(), NotTrue> {
        match self.run(subject) {
            Ok(Value::Bool(true)) => Ok(()),
            Ok(Value::Bool(false)) => Err(NotTrue::False),
            Ok(other) => Err(NotTrue::Error(format!("it gives {}, not a boolean", other.kind()))),
            Err(fault) => Err(NotTrue::Error(fault.to_string())),
        }
    }

    fn run<'a>(&'a self, subject: &'a Subject) -> Result<Value<'a>, eval::Fault<'a>> {
        Run::new(&subject.root, MAX_STEPS).eval(&self.root)
    }
}

fn check_tokens(source: &str) -> Result<(), FilterError> {
    let mut lexer = Lexer::new(source);
    let mut tokens = 0;
    while tokens <= MAX_TOKENS {
        match lexer.lex().kind {
            // Of an error, the parser says more.
            TokenKind::TokEnd | TokenKind::TokError => return Ok(()),
            TokenKind::TokWhitespace | TokenKind::TokComment => {}
            _ => tokens += 1,
        }
    }
    Err(FilterError::new(format!("is too large: more than {MAX_TOKENS} words and signs")))
}

impl FilterError {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into() }
    }

    fn of_parser(errors: &cel::ParseErrors) -> Self {
        // One limit speaks without a place, and what follows from it with one.
        let limit = errors.errors.iter().find(|error| error.msg.contains("recursion limit"));
        let placed = errors.errors.iter().find(|error| error.pos.0 > 0);
        match limit.or(placed).or(errors.errors.first()) {
            Some(error) if error.pos.0 > 0 => {
                let (line, column) = error.pos;
                Self::new(format!("{} (line {line}, column {column})", error.msg))
            }
            Some(error) => Self::new(error.msg.clone()),
            None => Self::new("is not a CEL expression"),
        }
    }
}
