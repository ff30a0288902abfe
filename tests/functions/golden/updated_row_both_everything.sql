CREATE OR REPLACE FUNCTION shop.watch_orders_grown() RETURNS trigger LANGUAGE plpgsql
AS $watch$
-- sqlalchemy_watch 1 {"application": "", "schema": "shop", "table": "orders", "label": "grown", "carries": ["id", "customer_id", "status"], "fires_on": ["total"], "when": "b2400a51", "old": true, "level": "row", "delivery": "both"}
#variable_conflict use_column
-- {"id": "integer", "customer_id": "bigint", "status": "text", "total": "numeric"}
<<watch>>
DECLARE
  watch_head pg_catalog.text;
  watch_single pg_catalog.text;
  watch_rows pg_catalog.text;
  watch_seen bigint;
  watch_room integer;
  watch_longest integer;
  watch_piece record;
  watch_resync pg_catalog.text;
  watch_logged pg_catalog.pg_lsn;
BEGIN
  BEGIN
    watch_single := CASE
      WHEN pg_catalog.texteq(pg_catalog.current_setting('sqlalchemy_watch.muted', true), 'on') THEN NULL
      WHEN (CASE WHEN NEW.id IS DISTINCT FROM OLD.id THEN ((new.total BETWEEN old.total AND 100 AND new.status IN ('new', 'paid') OR new.status != old.status)) IS NOT FALSE ELSE NEW.total IS DISTINCT FROM OLD.total AND (new.total BETWEEN old.total AND 100 AND new.status IN ('new', 'paid') OR new.status != old.status) END) IS NOT TRUE THEN NULL
      WHEN pg_catalog.octet_length(pg_catalog.current_setting('sqlalchemy_watch.context', true)) > 332 THEN ''
      ELSE pg_catalog.concat(
        '{"v":1,"table":"orders","label":"grown","op":"updated","columns":["id","customer_id","status"],"old":["customer_id","status","total"],"schema":', '"shop"',
        ',"txid":', pg_catalog.pg_current_xact_id(),
        ',"at":', (pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) * 1000000)::bigint,
        ',"wal":"', pg_catalog.pg_current_wal_insert_lsn(), '"',
        ',"context":', coalesce(pg_catalog.to_json(nullif(pg_catalog.current_setting('sqlalchemy_watch.context', true), '')), 'null'), ',"rows":[',
        '[', coalesce(pg_catalog.int8up(NEW.id)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.int8up(NEW.customer_id)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(NEW.status::pg_catalog.text)::pg_catalog.text, 'null') || CASE WHEN NEW.id IS DISTINCT FROM OLD.id THEN '' ELSE ',"' || (NEW.customer_id IS DISTINCT FROM OLD.customer_id)::integer::pg_catalog.text || (NEW.status IS DISTINCT FROM OLD.status)::integer::pg_catalog.text || (NEW.total IS DISTINCT FROM OLD.total)::integer::pg_catalog.text || '"' || ',' || coalesce(pg_catalog.int8up(OLD.customer_id)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(OLD.status::pg_catalog.text)::pg_catalog.text, 'null') || ',' || coalesce('"' || OLD.total::numeric::pg_catalog.text || '"', 'null') END, ']]}')
    END;
  EXCEPTION WHEN OTHERS THEN
    IF pg_catalog.texteq(pg_catalog.current_setting('sqlalchemy_watch.muted', true), 'on') THEN
      RETURN NULL;
    END IF;
    RAISE WARNING USING MESSAGE = pg_catalog.concat('sqlalchemy_watch: the rows of shop.orders/grown could not be described: ', SQLERRM),
      HINT = 'The write itself succeeds. Bring the trigger functions up to date.';
    watch_head := pg_catalog.concat(
      '{"v":1,"table":"orders","label":"grown","op":"updated","columns":["id","customer_id","status"],"old":["customer_id","status","total"],"schema":', '"shop"',
      ',"txid":', pg_catalog.pg_current_xact_id(),
      ',"at":', (pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) * 1000000)::bigint,
      ',"wal":"', pg_catalog.pg_current_wal_insert_lsn(), '"',
      ',"context":', 'null', ',"rows":[');
    watch_resync := 'the trigger function could not build the notification';
    PERFORM pg_catalog.pg_notify('watch_shop_orders_grown', pg_catalog.concat(watch_head, '],"resync":"', watch_resync, '"}'));
    PERFORM pg_catalog.pg_logical_emit_message(true, 'sqlalchemy_watch/watch_shop_orders_grown', pg_catalog.concat(watch_head, '],"resync":"', watch_resync, '"}'));
    RETURN NULL;
  END;
  IF pg_catalog.textne(watch_single, '') AND pg_catalog.int4le(pg_catalog.octet_length(watch_single), 7999) THEN
    watch_rows := pg_catalog.pg_notify('watch_shop_orders_grown', watch_single)::pg_catalog.text;
    watch_logged := pg_catalog.pg_logical_emit_message(true, 'sqlalchemy_watch/watch_shop_orders_grown', watch_single);
    RETURN NULL;
  END IF;
  IF watch_single IS NULL THEN
    RETURN NULL;
  END IF;
  BEGIN
    watch_head := pg_catalog.concat(
      '{"v":1,"table":"orders","label":"grown","op":"updated","columns":["id","customer_id","status"],"old":["customer_id","status","total"],"schema":', '"shop"',
      ',"txid":', pg_catalog.pg_current_xact_id(),
      ',"at":', (pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) * 1000000)::bigint,
      ',"wal":"', pg_catalog.pg_current_wal_insert_lsn(), '"',
      ',"context":', CASE WHEN pg_catalog.octet_length(coalesce(pg_catalog.to_json(nullif(pg_catalog.current_setting('sqlalchemy_watch.context', true), '')), 'null')::pg_catalog.text) > 2000 THEN 'null' ELSE coalesce(pg_catalog.to_json(nullif(pg_catalog.current_setting('sqlalchemy_watch.context', true), '')), 'null') END, ',"rows":[');
    watch_room := 7997 - pg_catalog.octet_length(watch_head);
    watch_rows := '[' || coalesce(pg_catalog.int8up(NEW.id)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.int8up(NEW.customer_id)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(NEW.status::pg_catalog.text)::pg_catalog.text, 'null') || CASE WHEN NEW.id IS DISTINCT FROM OLD.id THEN '' ELSE ',"' || (NEW.customer_id IS DISTINCT FROM OLD.customer_id)::integer::pg_catalog.text || (NEW.status IS DISTINCT FROM OLD.status)::integer::pg_catalog.text || (NEW.total IS DISTINCT FROM OLD.total)::integer::pg_catalog.text || '"' || ',' || coalesce(pg_catalog.int8up(OLD.customer_id)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(OLD.status::pg_catalog.text)::pg_catalog.text, 'null') || ',' || coalesce('"' || OLD.total::numeric::pg_catalog.text || '"', 'null') END || ']';
    IF pg_catalog.octet_length(watch_rows) > watch_room THEN
      IF watch_rows IS DISTINCT FROM watch_rows AND watch_rows IS NOT NULL THEN
        PERFORM pg_catalog.pg_notify('watch_shop_orders_grown', pg_catalog.concat(watch_head, watch_rows, ']}'));
        PERFORM pg_catalog.pg_logical_emit_message(true, 'sqlalchemy_watch/watch_shop_orders_grown', pg_catalog.concat(watch_head, watch_rows, ']}'));
        watch_rows := NULL;
      END IF;
      PERFORM pg_catalog.pg_logical_emit_message(true, 'sqlalchemy_watch/watch_shop_orders_grown', watch_head || watch_rows || ']}');
      watch_rows := '{"partial":[' || coalesce(pg_catalog.int8up(NEW.id)::pg_catalog.text, 'null') || ']}';
      IF pg_catalog.octet_length(watch_rows) > watch_room THEN
        watch_rows := NULL;
        watch_resync := 'a row does not fit into a notification';
      END IF;
      IF watch_resync IS NULL THEN
        PERFORM pg_catalog.pg_notify('watch_shop_orders_grown', watch_head || watch_rows || ']}');
      ELSE
        PERFORM pg_catalog.pg_notify('watch_shop_orders_grown', pg_catalog.concat(watch_head, '],"resync":"', watch_resync, '"}'));
      END IF;
      watch_resync := NULL;
      watch_rows := NULL;
    END IF;
    IF pg_catalog.octet_length(watch_rows) > 536870912 THEN
      watch_rows := NULL;
      watch_resync := 'a row does not fit into a notification';
    END IF;
  EXCEPTION WHEN OTHERS THEN
    IF pg_catalog.texteq(pg_catalog.current_setting('sqlalchemy_watch.muted', true), 'on') THEN
      RETURN NULL;
    END IF;
    RAISE WARNING USING MESSAGE = pg_catalog.concat('sqlalchemy_watch: the rows of shop.orders/grown could not be described: ', SQLERRM),
      HINT = 'The write itself succeeds. Bring the trigger functions up to date.';
    watch_head := pg_catalog.concat(
      '{"v":1,"table":"orders","label":"grown","op":"updated","columns":["id","customer_id","status"],"old":["customer_id","status","total"],"schema":', '"shop"',
      ',"txid":', pg_catalog.pg_current_xact_id(),
      ',"at":', (pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) * 1000000)::bigint,
      ',"wal":"', pg_catalog.pg_current_wal_insert_lsn(), '"',
      ',"context":', 'null', ',"rows":[');
    watch_resync := 'the trigger function could not build the notification';
    PERFORM pg_catalog.pg_notify('watch_shop_orders_grown', pg_catalog.concat(watch_head, '],"resync":"', watch_resync, '"}'));
    PERFORM pg_catalog.pg_logical_emit_message(true, 'sqlalchemy_watch/watch_shop_orders_grown', pg_catalog.concat(watch_head, '],"resync":"', watch_resync, '"}'));
    RETURN NULL;
  END;
  IF watch_rows IS NOT NULL THEN
    PERFORM pg_catalog.pg_notify('watch_shop_orders_grown', pg_catalog.concat(watch_head, watch_rows, ']}'));
    PERFORM pg_catalog.pg_logical_emit_message(true, 'sqlalchemy_watch/watch_shop_orders_grown', pg_catalog.concat(watch_head, watch_rows, ']}'));
  END IF;
  IF watch_resync IS NOT NULL THEN
    PERFORM pg_catalog.pg_notify('watch_shop_orders_grown', pg_catalog.concat(watch_head, '],"resync":"', watch_resync, '"}'));
    PERFORM pg_catalog.pg_logical_emit_message(true, 'sqlalchemy_watch/watch_shop_orders_grown', pg_catalog.concat(watch_head, '],"resync":"', watch_resync, '"}'));
  END IF;
  RETURN NULL;
END
$watch$;

CREATE TRIGGER watch_orders_grown AFTER UPDATE ON shop.orders FOR EACH ROW EXECUTE FUNCTION shop.watch_orders_grown();
