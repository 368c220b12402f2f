//! XML by structure, and every text through a parser.
