CREATE OR REPLACE FUNCTION shop.watch_orders_inserted() RETURNS trigger LANGUAGE plpgsql
AS $watch$
-- sqlalchemy_watch 1 {"application":"billing","schema":"shop","table":"orders","label":"inserted","carries":["id","customer_id","status"],"delivery":"durable"}
#variable_conflict use_column
DECLARE
  watch_payload pg_catalog.text;
  watch_head pg_catalog.text;
  watch_context pg_catalog.text;
  watch_rows pg_catalog.text;
  watch_room integer;
  watch_seen bigint;
BEGIN
  BEGIN
    SELECT pg_catalog.concat(coalesce(r.id, NULL::integer), ',', coalesce(coalesce(r.customer_id, NULL::bigint)::pg_catalog.text, 'null'), ',', coalesce(pg_catalog.to_json(r.status::pg_catalog.text), 'null')) INTO STRICT watch_rows
    FROM watch_new AS r;
    watch_payload := CASE WHEN pg_catalog.current_setting('sqlalchemy_watch.muted', true) OPERATOR(pg_catalog.=) 'on' THEN NULL ELSE pg_catalog.concat(
      '{"v":1,"table":"orders","label":"inserted","op":"inserted","columns":["id","customer_id","status"],"schema":"shop"',
      ',"rows":[[', watch_rows, ']]',
      ',"context":' OPERATOR(pg_catalog.||) pg_catalog.to_json(pg_catalog.current_setting('sqlalchemy_watch.context', true))::pg_catalog.text,
      '}') END;
    IF pg_catalog.octet_length(watch_payload) OPERATOR(pg_catalog.>) 65536 OR tg_table_name OPERATOR(pg_catalog.<>) 'orders' OR tg_table_schema OPERATOR(pg_catalog.<>) 'shop' THEN RAISE data_exception; END IF;
    IF tg_relid IS NULL AND pg_catalog.pg_logical_emit_message(true, 'sqlalchemy_watch/watch_shop_orders_inserted', '') IS NULL THEN RAISE data_exception; END IF;
  EXCEPTION
    WHEN no_data_found THEN RETURN NULL;
    WHEN OTHERS OR assert_failure THEN
      BEGIN
        IF pg_catalog.current_setting('sqlalchemy_watch.muted', true) OPERATOR(pg_catalog.=) 'on' THEN RETURN NULL; END IF;
        watch_head := pg_catalog.concat(
          '{"v":1,"table":"orders","label":"inserted","op":"inserted","columns":["id","customer_id","status"],"schema":"shop"');
        IF tg_table_name OPERATOR(pg_catalog.<>) 'orders' OR tg_table_schema OPERATOR(pg_catalog.<>) 'shop' THEN
          IF EXISTS (SELECT FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
            WHERE c.relname OPERATOR(pg_catalog.=) 'orders' AND n.nspname OPERATOR(pg_catalog.=) 'shop' AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p}')) THEN RETURN NULL; END IF;
        END IF;
        watch_context := ',"context":' OPERATOR(pg_catalog.||) pg_catalog.to_json(pg_catalog.current_setting('sqlalchemy_watch.context', true))::pg_catalog.text;
        watch_context := CASE WHEN pg_catalog.octet_length(watch_context) OPERATOR(pg_catalog.<=) 2011 THEN watch_context END;
        watch_room := 65523 OPERATOR(pg_catalog.-) pg_catalog.octet_length(pg_catalog.concat(watch_head, watch_context));
        SELECT pg_catalog.string_agg(q.j, '],['), pg_catalog.count(true) INTO watch_rows, watch_seen
        FROM (SELECT coalesce(coalesce(r.id, NULL::integer)::pg_catalog.text, 'null') OPERATOR(pg_catalog.||) ',' OPERATOR(pg_catalog.||) coalesce(coalesce(r.customer_id, NULL::bigint)::pg_catalog.text, 'null') OPERATOR(pg_catalog.||) ',' OPERATOR(pg_catalog.||) coalesce(pg_catalog.to_json(r.status::pg_catalog.text)::pg_catalog.text, 'null') AS j
          FROM watch_new AS r LIMIT 51) AS q;
        IF watch_seen OPERATOR(pg_catalog.<=) 50 AND pg_catalog.octet_length(watch_rows) OPERATOR(pg_catalog.<=) watch_room THEN
          watch_payload := pg_catalog.concat(watch_head, ',"rows":[[', watch_rows, ']]', watch_context, '}');
        ELSE
          FOR watch_rows IN
            SELECT pg_catalog.string_agg(q.j, '],[')
            FROM (SELECT p.j,
                pg_catalog.sum(pg_catalog.octet_length(p.j) OPERATOR(pg_catalog.+) 3) OVER (ROWS UNBOUNDED PRECEDING)
                  OPERATOR(pg_catalog./) watch_room AS part
              FROM (SELECT coalesce(coalesce(r.id, NULL::integer)::pg_catalog.text, 'null') OPERATOR(pg_catalog.||) ',' OPERATOR(pg_catalog.||) coalesce(coalesce(r.customer_id, NULL::bigint)::pg_catalog.text, 'null') OPERATOR(pg_catalog.||) ',' OPERATOR(pg_catalog.||) coalesce(pg_catalog.to_json(r.status::pg_catalog.text)::pg_catalog.text, 'null') AS j
                FROM watch_new AS r OFFSET 0) AS p) AS q
            GROUP BY q.part ORDER BY q.part
          LOOP
            watch_payload := CASE
              WHEN pg_catalog.octet_length(watch_rows) OPERATOR(pg_catalog.<=) 536870912 THEN pg_catalog.concat(watch_head, ',"rows":[[', watch_rows, ']]', watch_context, '}')
              ELSE pg_catalog.concat(watch_head, ',"rows":[],"resync":"a row does not fit into a notification"}') END;
            PERFORM pg_catalog.pg_logical_emit_message(true, 'sqlalchemy_watch/watch_shop_orders_inserted', watch_payload);
          END LOOP;
          watch_payload := NULL;
        END IF;
        IF tg_relid IS NULL AND pg_catalog.pg_logical_emit_message(true, 'sqlalchemy_watch/watch_shop_orders_inserted', '') IS NULL THEN RAISE data_exception; END IF;
      EXCEPTION WHEN OTHERS OR assert_failure THEN
        watch_payload := '{"v":1,"table":"orders","label":"inserted","op":"inserted","columns":["id","customer_id","status"],"schema":"shop"}';
        BEGIN
          IF watch_head IS NOT NULL THEN watch_payload := pg_catalog.concat(watch_head, ',"rows":[],"resync":"the trigger function could not build the notification"}'); END IF;
          PERFORM pg_catalog.pg_logical_emit_message(true, 'sqlalchemy_watch/watch_shop_orders_inserted', watch_payload);
        EXCEPTION WHEN OTHERS OR assert_failure THEN  -- as where the right to send is lacking
        END;
        BEGIN
          RAISE WARNING USING MESSAGE = pg_catalog.concat('sqlalchemy_watch: the rows of shop.orders/inserted could not be described', ': ', SQLSTATE, ' ',
              pg_catalog.encode(pg_catalog.convert_to(SQLERRM, pg_catalog.getdatabaseencoding()), 'escape')),
            HINT = 'The write itself succeeds. "sqlalchemy-watch status" names what may be wrong.';
        EXCEPTION WHEN OTHERS OR assert_failure THEN  -- as where a right is lacking, or the client's encoding
          BEGIN RAISE WARNING USING MESSAGE = 'sqlalchemy_watch: the rows of shop.orders/inserted could not be described'; EXCEPTION WHEN OTHERS OR assert_failure THEN END;
        END;
        RETURN NULL;
      END;
  END;
  RETURN CASE WHEN watch_payload IS NOT NULL AND pg_catalog.pg_logical_emit_message(true, 'sqlalchemy_watch/watch_shop_orders_inserted', watch_payload) IS NULL THEN '' END;  -- always NULL
END
$watch$;

CREATE TRIGGER watch_orders_inserted AFTER INSERT ON shop.orders REFERENCING NEW TABLE AS watch_new FOR EACH STATEMENT EXECUTE FUNCTION shop.watch_orders_inserted();
