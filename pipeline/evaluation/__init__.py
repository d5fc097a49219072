"""The paper's two tests: cross-modal alignment (F12) and ordinality (F13). Pure functions and the tables they fill."""
