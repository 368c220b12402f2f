//! From the parser's tree to one that can be evaluated: names and functions resolved, macros told
//! apart, regexes compiled, everything else refused.

use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, ListExpr, LiteralValue, MapExpr, operators,
};
use regex::{Regex, RegexBuilder, bytes};

use super::{FilterError, MAX_NESTED_MACROS, MAX_NODES, value::Json};

/// Bytes of a compiled regex.
const LARGE_REGEX: usize = 1 << 20;
/// What regexes up to this size may keep in memory while they search; larger ones as much as the largest.
const SMALL_REGEX: usize = 1 << 17;
/// A step pays, at each byte of a text, for so much of a regex: of its positions, all of which may be live...
const LIVE_BYTES: usize = 1 << 10;
/// ...and of Unicode's classes, which make a position large but not slow: \w is 50 KB.
const CLASS_BYTES: usize = 1 << 13;

#[derive(Debug)]
pub(super) enum Node {
    Literal(Json),
    Event,
    /// A macro's variable: how many macros it lies in.
    Variable(usize),
    Field(Box<Node>, Box<str>),
    Has(Box<Node>, Box<str>),
    Index(Box<Node>, Box<Node>),
    List(Box<[Node]>),
    Map(Box<[(Node, Node)]>),
    Not(Box<Node>),
    Negate(Box<Node>),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    If(Box<[Node; 3]>),
    Binary(Binary, Box<Node>, Box<Node>),
    Call(Function, Box<[Node]>),
    Matches(Box<Node>, Box<Pattern>),
    Macro(Box<Macro>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Binary {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Size,
    Contains,
    StartsWith,
    EndsWith,
    Int,
    Double,
    String,
    Bool,
    Dyn,
}

/// A regex, and what it costs.
#[derive(Debug)]
pub(super) struct Pattern {
    pub(super) regex: Regex,
    pub(super) steps_per_byte: usize,
}

#[derive(Debug)]
pub(super) struct Macro {
    pub(super) range: Node,
    /// The `Variable` that stands for an item of the range.
    pub(super) variable: usize,
    pub(super) kind: MacroKind,
}

#[derive(Debug)]
pub(super) enum MacroKind {
    All(Node),
    Exists(Node),
    ExistsOne(Node),
    /// `map`, and `filter`, which maps each item to itself: a condition, and what is made.
    Map(Option<Node>, Node),
}

pub(super) fn compile<'t>(tree: &'t IdedExpr, source: &'t str) -> Result<Node, FilterError> {
    Compiler { source, scope: Vec::new(), nodes: 0 }.node(tree)
}

struct Compiler<'t> {
    source: &'t str,
    /// Variables of the macros around, outermost first.
    scope: Vec<&'t str>,
    nodes: usize,
}

impl<'t> Compiler<'t> {
    fn node(&mut self, tree: &'t IdedExpr) -> Result<Node, FilterError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(FilterError::new(format!("is too large: more than {MAX_NODES} nodes")));
        }
        match &tree.expr {
            Expr::Literal(literal) => self.literal(literal),
            Expr::Ident(name) => self.name(name),
            Expr::Select(select) => {
                let (operand, field) = (self.boxed(&select.operand)?, select.field.as_str().into());
                Ok(if select.test { Node::Has(operand, field) } else { Node::Field(operand, field) })
            }
            Expr::List(ListExpr { elements, .. }) => {
                Ok(Node::List(elements.iter().map(|it| self.node(it)).collect::<Result<_, _>>()?))
            }
            Expr::Map(map) => self.map(map),
            Expr::Call(call) => self.call(call),
            Expr::Comprehension(it) => self.comprehension(it),
            Expr::Struct(it) => Err(self.at("there is no message type", &it.type_name)),
            Expr::Unspecified => Err(FilterError::new("is not a CEL expression")),
        }
    }

    fn boxed(&mut self, tree: &'t IdedExpr) -> Result<Box<Node>, FilterError> {
        self.node(tree).map(Box::new)
    }

    fn literal(&mut self, literal: &LiteralValue) -> Result<Node, FilterError> {
        Ok(Node::Literal(match literal {
            LiteralValue::Boolean(it) => Json::Bool(*it.inner()),
            LiteralValue::Int(it) => Json::Int(*it.inner()),
            LiteralValue::UInt(it) => Json::Int(
                i64::try_from(*it.inner())
                    .map_err(|_| FilterError::new(format!("the number {} is too large", it.inner())))?,
            ),
            LiteralValue::Double(it) => Json::number(*it.inner()),
            LiteralValue::String(it) => Json::Text(it.inner().into()),
            LiteralValue::Null => Json::Null,
            LiteralValue::Bytes(_) => {
                return Err(FilterError::new("bytes are not supported: JSON has none"));
            }
        }))
    }

    fn name(&mut self, name: &str) -> Result<Node, FilterError> {
        if let Some(depth) = self.scope.iter().rposition(|it| *it == name) {
            return Ok(Node::Variable(depth));
        }
        match name {
            "event" | ".event" => Ok(Node::Event),
            _ => Err(self.at("there is only the variable event, and no name", name)),
        }
    }

    fn map(&mut self, map: &'t MapExpr) -> Result<Node, FilterError> {
        let mut entries = Vec::with_capacity(map.entries.len());
        for entry in &map.entries {
            let EntryExpr::MapEntry(entry) = &entry.expr else {
                return Err(FilterError::new("message fields are not supported"));
            };
            entries.push((self.node(&entry.key)?, self.node(&entry.value)?));
        }
        Ok(Node::Map(entries.into()))
    }

    fn call(&mut self, call: &'t CallExpr) -> Result<Node, FilterError> {
        let name = call.func_name.as_str();
        if call.target.is_none()
            && let Some(node) = self.operator(name, &call.args)?
        {
            return Ok(node);
        }
        let arguments: Vec<&IdedExpr> = call.target.as_deref().into_iter().chain(&call.args).collect();
        if let ("matches", [text, pattern]) = (name, arguments.as_slice()) {
            return Ok(Node::Matches(self.boxed(text)?, Box::new(self.pattern(pattern)?)));
        }
        // Functions of one argument are also written as methods (size), or never (conversions).
        let function = match (name, arguments.len(), call.target.is_some()) {
            ("size", 1, _) => Function::Size,
            ("contains", 2, true) => Function::Contains,
            ("startsWith", 2, true) => Function::StartsWith,
            ("endsWith", 2, true) => Function::EndsWith,
            ("int", 1, false) => Function::Int,
            ("double", 1, false) => Function::Double,
            ("string", 1, false) => Function::String,
            ("bool", 1, false) => Function::Bool,
            ("dyn", 1, false) => Function::Dyn,
            _ => return Err(self.unknown_function(name)),
        };
        let arguments = arguments.into_iter().map(|it| self.node(it)).collect::<Result<_, _>>()?;
        Ok(Node::Call(function, arguments))
    }

    fn unknown_function(&self, name: &str) -> FilterError {
        match name {
            "size" | "contains" | "startsWith" | "endsWith" | "matches" | "int" | "double" | "string"
            | "bool" | "dyn" | "has" | "all" | "exists" | "exists_one" | "map" | "filter" => {
                self.at("wrong arguments, or a wrong way to call", name)
            }
            _ => self.at("there is no function", name),
        }
    }

    fn operator(&mut self, name: &str, args: &'t [IdedExpr]) -> Result<Option<Node>, FilterError> {
        let binary = match name {
            operators::EQUALS => Binary::Equal,
            operators::NOT_EQUALS => Binary::NotEqual,
            operators::LESS => Binary::Less,
            operators::LESS_EQUALS => Binary::LessOrEqual,
            operators::GREATER => Binary::Greater,
            operators::GREATER_EQUALS => Binary::GreaterOrEqual,
            operators::IN => Binary::In,
            operators::ADD => Binary::Add,
            operators::SUBSTRACT => Binary::Subtract,
            operators::MULTIPLY => Binary::Multiply,
            operators::DIVIDE => Binary::Divide,
            operators::MODULO => Binary::Modulo,
            _ => {
                return Ok(Some(match (name, args) {
                    (operators::LOGICAL_AND, [a, b]) => Node::And(self.boxed(a)?, self.boxed(b)?),
                    (operators::LOGICAL_OR, [a, b]) => Node::Or(self.boxed(a)?, self.boxed(b)?),
                    (operators::INDEX, [a, b]) => Node::Index(self.boxed(a)?, self.boxed(b)?),
                    (operators::LOGICAL_NOT, [it]) => Node::Not(self.boxed(it)?),
                    (operators::NEGATE, [it]) => Node::Negate(self.boxed(it)?),
                    (operators::CONDITIONAL, [a, b, c]) => {
                        Node::If(Box::new([self.node(a)?, self.node(b)?, self.node(c)?]))
                    }
                    _ => return Ok(None),
                }));
            }
        };
        match args {
            [a, b] => Ok(Some(Node::Binary(binary, self.boxed(a)?, self.boxed(b)?))),
            _ => Ok(None),
        }
    }

    fn pattern(&mut self, pattern: &IdedExpr) -> Result<Pattern, FilterError> {
        self.nodes += 1;
        let Expr::Literal(LiteralValue::String(pattern)) = &pattern.expr else {
            return Err(FilterError::new("matches takes its regex as a constant string"));
        };
        let pattern = pattern.inner();
        let whole = sized(|bytes| {
            let memory = if bytes <= SMALL_REGEX { SMALL_REGEX } else { LARGE_REGEX };
            RegexBuilder::new(pattern).size_limit(bytes).dfa_size_limit(memory).nest_limit(32).build()
        });
        let (regex, size) =
            whole.map_err(|e| FilterError::new(format!("the regex {pattern:?} is not one: {e}")))?;
        // At worst a byte of text visits all positions. How many there are shows without Unicode's classes;
        // where it cannot do without them, their size counts in full.
        let plain = sized(|bytes| {
            bytes::RegexBuilder::new(pattern).unicode(false).size_limit(bytes).nest_limit(32).build()
        });
        let live = plain.map_or(size, |(_, plain)| plain);
        Ok(Pattern { regex, steps_per_byte: (live / LIVE_BYTES).max(size / CLASS_BYTES).max(1) })
    }

    /// The parser has expanded macros; what they were shows in the step of their loop.
    fn comprehension(&mut self, it: &'t ComprehensionExpr) -> Result<Node, FilterError> {
        let range = self.node(&it.iter_range)?;
        let variable = self.scope.len();
        if variable == MAX_NESTED_MACROS {
            let message = format!("macros must be nested at most {MAX_NESTED_MACROS} deep");
            return Err(self.at(&message, &it.iter_var));
        }
        self.scope.push(&it.iter_var);
        let kind = self.step(&it.loop_step)?;
        self.scope.pop();
        Ok(Node::Macro(Box::new(Macro { range, variable, kind })))
    }

    fn step(&mut self, step: &'t IdedExpr) -> Result<MacroKind, FilterError> {
        let unknown = || FilterError::new("holds a macro that is not supported");
        let Expr::Call(call) = &step.expr else { return Err(unknown()) };
        match (call.func_name.as_str(), call.args.as_slice()) {
            (operators::LOGICAL_AND, [_, it]) => Ok(MacroKind::All(self.node(it)?)),
            (operators::LOGICAL_OR, [_, it]) => Ok(MacroKind::Exists(self.node(it)?)),
            (operators::ADD, _) => match made(step) {
                Some(it) => Ok(MacroKind::Map(None, self.node(it)?)),
                None => Err(unknown()),
            },
            (operators::CONDITIONAL, [condition, then, _]) => {
                let condition = self.node(condition)?;
                match made(then) {
                    Some(it) => Ok(MacroKind::Map(Some(condition), self.node(it)?)),
                    None => Ok(MacroKind::ExistsOne(condition)),
                }
            }
            _ => Err(unknown()),
        }
    }

    /// `what`, the name, and where it stands first.
    fn at(&self, what: &str, name: &str) -> FilterError {
        let word = |c: char| c.is_alphanumeric() || c == '_';
        let place = self.source.match_indices(name).map(|(at, _)| at).find(|at| {
            !self.source[..*at].ends_with(word) && !self.source[at + name.len()..].starts_with(word)
        });
        match place {
            Some(at) => {
                let before = &self.source[..at];
                let line = before.matches('\n').count() + 1;
                let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
                FilterError::new(format!("{what} {name:?} (line {line}, column {column})"))
            }
            None => FilterError::new(format!("{what} {name:?}")),
        }
    }
}

/// A regex, and the least power of two of bytes that it fits in.
fn sized<R>(build: impl Fn(usize) -> Result<R, regex::Error>) -> Result<(R, usize), regex::Error> {
    let mut bytes = LIVE_BYTES;
    loop {
        match build(bytes) {
            Err(regex::Error::CompiledTooBig(_)) if bytes < LARGE_REGEX => bytes *= 2,
            built => return built.map(|it| (it, bytes)),
        }
    }
}

/// What `result + [item]` appends.
fn made(tree: &IdedExpr) -> Option<&IdedExpr> {
    let Expr::Call(call) = &tree.expr else { return None };
    match (call.func_name.as_str(), call.args.as_slice()) {
        (operators::ADD, [_, IdedExpr { expr: Expr::List(list), .. }]) => list.elements.first(),
        _ => None,
    }
}
