-- In which language people want to be written to. The application's table, only read. Read by languages.py.

-- name: tell_languages
-- What these people have chosen, whatever else their preferences hold; who has chosen nothing has no row.
-- $1 addresses as the application may have stored them (text[])
SELECT email, left(preferences ->> 'language', 64) AS language
FROM users
WHERE email = ANY($1::text[]) AND preferences ->> 'language' IS NOT NULL;
