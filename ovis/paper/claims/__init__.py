"""The paper's statements as data, and their comparison with runs."""
