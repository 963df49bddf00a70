-- What operators have decided: a row of any kind as JSON, under its kind and its id (`operation/7`).
CREATE TABLE management (
    row_key TEXT PRIMARY KEY,
    body TEXT NOT NULL
);
