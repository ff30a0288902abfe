CREATE OR REPLACE FUNCTION watch_lines_updated() RETURNS trigger LANGUAGE plpgsql
AS $watch$
-- sqlalchemy_watch 1 {"application":"","schema":null,"table":"lines","label":"updated","carries":["order","number","note"],"old":true}
#variable_conflict use_column
DECLARE
  watch_payload pg_catalog.text;
  watch_head pg_catalog.text;
  watch_context pg_catalog.text;
  watch_rows pg_catalog.text;
  watch_key pg_catalog.text;
  watch_room integer;
  watch_seen bigint;
  watch_next pg_catalog.record;
BEGIN
  BEGIN
    SELECT pg_catalog.concat(coalesce(r."order", NULL::integer), ',', coalesce(r.number, NULL::smallint), ',', coalesce(pg_catalog.to_json(r.note::pg_catalog.text), 'null'), ',"', ((r."order" OPERATOR(pg_catalog.<>) o."order") IS NOT FALSE)::integer::pg_catalog.text, ((r.number OPERATOR(pg_catalog.<>) o.number) IS NOT FALSE)::integer::pg_catalog.text, (pg_catalog.record_image_ne(ROW(r.note), ROW(o.note)))::integer::pg_catalog.text, '",', coalesce(o."order", NULL::integer), ',', coalesce(o.number, NULL::smallint), ',', coalesce(pg_catalog.to_json(o.note::pg_catalog.text), 'null')) INTO STRICT watch_rows
    FROM watch_new AS r
    LEFT JOIN watch_old AS o ON true;
    watch_payload := CASE WHEN pg_catalog.current_setting('sqlalchemy_watch.muted', true) OPERATOR(pg_catalog.=) 'on' THEN NULL ELSE pg_catalog.concat(
      '{"v":1,"table":"lines","label":"updated","op":"updated","columns":["order","number","note"],"old":["order","number","note"],"oid":', tg_relid,
      ',"txid":', pg_catalog.pg_current_xact_id(),
      ',"at":', pg_catalog.to_json(pg_catalog.clock_timestamp()),
      ',"rows":[[', watch_rows, ']]',
      ',"context":' OPERATOR(pg_catalog.||) pg_catalog.to_json(pg_catalog.current_setting('sqlalchemy_watch.context', true))::pg_catalog.text,
      '}') END;
    IF pg_catalog.octet_length(watch_payload) OPERATOR(pg_catalog.>) 7999 OR tg_table_name OPERATOR(pg_catalog.<>) 'lines' THEN RAISE data_exception; END IF;
    IF tg_relid IS NULL AND pg_catalog.pg_notify('watch_lines_updated', '') IS NULL THEN RAISE data_exception; END IF;
  EXCEPTION
    WHEN no_data_found THEN RETURN NULL;
    WHEN OTHERS OR assert_failure THEN
      BEGIN
        IF pg_catalog.current_setting('sqlalchemy_watch.muted', true) OPERATOR(pg_catalog.=) 'on' THEN RETURN NULL; END IF;
        watch_head := pg_catalog.concat(
          '{"v":1,"table":"lines","label":"updated","op":"updated","columns":["order","number","note"],"old":["order","number","note"],"oid":', tg_relid,
          ',"txid":', pg_catalog.pg_current_xact_id(),
          ',"at":', pg_catalog.to_json(pg_catalog.clock_timestamp()));
        IF tg_table_name OPERATOR(pg_catalog.<>) 'lines' THEN
          IF EXISTS (SELECT FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_class AS t ON t.relnamespace OPERATOR(pg_catalog.=) c.relnamespace
            WHERE c.relname OPERATOR(pg_catalog.=) 'lines' AND t.oid OPERATOR(pg_catalog.=) tg_relid AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p}')) THEN RETURN NULL; END IF;
        END IF;
        watch_context := ',"context":' OPERATOR(pg_catalog.||) pg_catalog.to_json(pg_catalog.current_setting('sqlalchemy_watch.context', true))::pg_catalog.text;
        watch_context := CASE WHEN pg_catalog.octet_length(watch_context) OPERATOR(pg_catalog.<=) 2011 THEN watch_context END;
        watch_room := 7986 OPERATOR(pg_catalog.-) pg_catalog.octet_length(pg_catalog.concat(watch_head, watch_context));
        SELECT pg_catalog.string_agg(q.j, '],['), pg_catalog.count(true) INTO watch_rows, watch_seen
        FROM (SELECT CASE WHEN r."watch # of the row" IS NULL OR o."watch # of the row" IS NULL THEN '?' ELSE coalesce(coalesce(r."order", NULL::integer)::pg_catalog.text, 'null') OPERATOR(pg_catalog.||) ',' OPERATOR(pg_catalog.||) coalesce(coalesce(r.number, NULL::smallint)::pg_catalog.text, 'null') OPERATOR(pg_catalog.||) ',' OPERATOR(pg_catalog.||) coalesce(pg_catalog.to_json(r.note::pg_catalog.text)::pg_catalog.text, 'null') OPERATOR(pg_catalog.||) ',"' OPERATOR(pg_catalog.||) ((r."order" OPERATOR(pg_catalog.<>) o."order") IS NOT FALSE)::integer::pg_catalog.text OPERATOR(pg_catalog.||) ((r.number OPERATOR(pg_catalog.<>) o.number) IS NOT FALSE)::integer::pg_catalog.text OPERATOR(pg_catalog.||) (pg_catalog.record_image_ne(ROW(r.note), ROW(o.note)))::integer::pg_catalog.text OPERATOR(pg_catalog.||) '",' OPERATOR(pg_catalog.||) coalesce(coalesce(o."order", NULL::integer)::pg_catalog.text, 'null') OPERATOR(pg_catalog.||) ',' OPERATOR(pg_catalog.||) coalesce(coalesce(o.number, NULL::smallint)::pg_catalog.text, 'null') OPERATOR(pg_catalog.||) ',' OPERATOR(pg_catalog.||) coalesce(pg_catalog.to_json(o.note::pg_catalog.text)::pg_catalog.text, 'null') END AS j
          FROM (SELECT t.*, pg_catalog.row_number() OVER () AS "watch # of the row" FROM watch_new AS t LIMIT 51) AS r
          FULL JOIN (SELECT t.*, pg_catalog.row_number() OVER () AS "watch # of the row" FROM watch_old AS t LIMIT 51) AS o
          ON o."watch # of the row" OPERATOR(pg_catalog.=) r."watch # of the row") AS q;
        IF watch_seen OPERATOR(pg_catalog.<=) 50 AND pg_catalog.octet_length(watch_rows) OPERATOR(pg_catalog.<=) watch_room THEN
          watch_payload := pg_catalog.concat(watch_head, ',"rows":[[', watch_rows, ']]', watch_context, '}');
        ELSE
          FOR watch_next IN
            SELECT pg_catalog.string_agg(q.j, '],[') AS j, pg_catalog.min(q.k) AS k
            FROM (SELECT p.j,
                CASE WHEN pg_catalog.octet_length(p.j) OPERATOR(pg_catalog.>) 1000 THEN pg_catalog.concat(coalesce(p.k0, NULL::integer), ',', coalesce(p.k1, NULL::smallint)) END AS k,
                pg_catalog.octet_length(p.j) OPERATOR(pg_catalog.>) 1000 AS apart,
                pg_catalog.sum(CASE WHEN pg_catalog.octet_length(p.j) OPERATOR(pg_catalog.>) 1000 THEN 20000 ELSE pg_catalog.octet_length(p.j) OPERATOR(pg_catalog.+) 3 END) OVER (ROWS UNBOUNDED PRECEDING)
                  OPERATOR(pg_catalog./) (watch_room OPERATOR(pg_catalog.-) 1003) AS part
              FROM (SELECT CASE WHEN r."watch # of the row" IS NULL OR o."watch # of the row" IS NULL THEN '?' ELSE coalesce(coalesce(r."order", NULL::integer)::pg_catalog.text, 'null') OPERATOR(pg_catalog.||) ',' OPERATOR(pg_catalog.||) coalesce(coalesce(r.number, NULL::smallint)::pg_catalog.text, 'null') OPERATOR(pg_catalog.||) ',' OPERATOR(pg_catalog.||) coalesce(pg_catalog.to_json(r.note::pg_catalog.text)::pg_catalog.text, 'null') OPERATOR(pg_catalog.||) ',"' OPERATOR(pg_catalog.||) ((r."order" OPERATOR(pg_catalog.<>) o."order") IS NOT FALSE)::integer::pg_catalog.text OPERATOR(pg_catalog.||) ((r.number OPERATOR(pg_catalog.<>) o.number) IS NOT FALSE)::integer::pg_catalog.text OPERATOR(pg_catalog.||) (pg_catalog.record_image_ne(ROW(r.note), ROW(o.note)))::integer::pg_catalog.text OPERATOR(pg_catalog.||) '",' OPERATOR(pg_catalog.||) coalesce(coalesce(o."order", NULL::integer)::pg_catalog.text, 'null') OPERATOR(pg_catalog.||) ',' OPERATOR(pg_catalog.||) coalesce(coalesce(o.number, NULL::smallint)::pg_catalog.text, 'null') OPERATOR(pg_catalog.||) ',' OPERATOR(pg_catalog.||) coalesce(pg_catalog.to_json(o.note::pg_catalog.text)::pg_catalog.text, 'null') END AS j, r."order" AS k0, r.number AS k1
                FROM (SELECT t.*, pg_catalog.row_number() OVER () AS "watch # of the row" FROM watch_new AS t) AS r
                FULL JOIN (SELECT t.*, pg_catalog.row_number() OVER () AS "watch # of the row" FROM watch_old AS t) AS o
                ON o."watch # of the row" OPERATOR(pg_catalog.=) r."watch # of the row" OFFSET 0) AS p) AS q
            GROUP BY q.part, q.apart ORDER BY q.part, q.apart DESC
          LOOP
            watch_rows := watch_next.j;
            watch_key := watch_next.k;
            watch_payload := CASE
              WHEN pg_catalog.octet_length(watch_rows) OPERATOR(pg_catalog.<=) watch_room THEN pg_catalog.concat(watch_head, ',"rows":[[', watch_rows, ']]', watch_context, '}')
              WHEN pg_catalog.octet_length(watch_key) OPERATOR(pg_catalog.<=) watch_room THEN pg_catalog.concat(watch_head, ',"rows":[[', watch_key, ']]', watch_context, '}')
              ELSE pg_catalog.concat(watch_head, ',"rows":[],"resync":"a row does not fit into a notification"}') END;
            PERFORM pg_catalog.pg_notify('watch_lines_updated', watch_payload);
          END LOOP;
          watch_payload := NULL;
        END IF;
        IF tg_relid IS NULL AND pg_catalog.pg_notify('watch_lines_updated', '') IS NULL THEN RAISE data_exception; END IF;
      EXCEPTION WHEN OTHERS OR assert_failure THEN
        watch_payload := '{"v":1,"table":"lines","label":"updated","op":"updated","columns":["order","number","note"],"old":["order","number","note"]}';
        BEGIN
          IF watch_head IS NOT NULL THEN watch_payload := pg_catalog.concat(watch_head, ',"rows":[],"resync":"the trigger function could not build the notification"}'); END IF;
          PERFORM pg_catalog.pg_notify('watch_lines_updated', watch_payload);
        EXCEPTION WHEN OTHERS OR assert_failure THEN  -- as where the right to send is lacking
        END;
        BEGIN
          RAISE WARNING USING MESSAGE = pg_catalog.concat('sqlalchemy_watch: the rows of lines/updated could not be described', ': ', SQLSTATE, ' ',
              pg_catalog.encode(pg_catalog.convert_to(SQLERRM, pg_catalog.getdatabaseencoding()), 'escape')),
            HINT = 'The write itself succeeds. "sqlalchemy-watch status" names what may be wrong.';
        EXCEPTION WHEN OTHERS OR assert_failure THEN  -- as where a right is lacking, or the client's encoding
          BEGIN RAISE WARNING USING MESSAGE = 'sqlalchemy_watch: the rows of lines/updated could not be described'; EXCEPTION WHEN OTHERS OR assert_failure THEN END;
        END;
        RETURN NULL;
      END;
  END;
  RETURN CASE WHEN watch_payload IS NOT NULL AND pg_catalog.pg_notify('watch_lines_updated', watch_payload) IS NULL THEN '' END;  -- always NULL
END
$watch$;

CREATE TRIGGER watch_lines_updated AFTER UPDATE ON lines REFERENCING OLD TABLE AS watch_old NEW TABLE AS watch_new FOR EACH STATEMENT EXECUTE FUNCTION watch_lines_updated();
